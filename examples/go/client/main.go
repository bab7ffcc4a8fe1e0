// Client calls a service that etcd's own resolver finds, with gRPC's round_robin, and prints who answers. It knows nothing of
// Waymark.
//
// What happens is printed, a line each:
//
//	up KEY ADDRESS METADATA        an endpoint as the naming package reads it, its metadata as JSON
//	down KEY
//	answer INSTANCE REPLY          one call; the instance is what the response header greeter-instance says
//	failed CODE MESSAGE
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os/signal"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"waymark.example/greeter/hello"
)

const (
	// instanceHeader is the response metadata that says who answered.
	instanceHeader = "greeter-instance"
	// etcdTimeout bounds the first connection to etcd.
	etcdTimeout = 5 * time.Second
	roundRobin  = `{"loadBalancingConfig":[{"round_robin":{}}]}`
)

type options struct {
	service, etcd     string
	authority         string
	greeter, calls    int
	interval, timeout time.Duration
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("client: ")
	var o options
	flag.StringVar(&o.service, "service", "ayang/server1", "the service to dial, as etcd:///SERVICE")
	flag.StringVar(&o.etcd, "etcd", "http://127.0.0.1:2379", "etcd's endpoints, separated by commas")
	flag.StringVar(&o.authority, "authority", "", "the :authority of the calls; default: the service, with its slashes as %2F")
	flag.IntVar(&o.greeter, "greeter", 1, "which method to call: 1 is SayHello1, 2 is SayHello2")
	flag.IntVar(&o.calls, "calls", 0, "how many calls; 0 means until it is stopped")
	flag.DurationVar(&o.interval, "interval", time.Second, "the pause between two calls")
	flag.DurationVar(&o.timeout, "timeout", 5*time.Second, "how long a call may take")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, o options) error {
	if o.greeter != 1 && o.greeter != 2 {
		return fmt.Errorf("-greeter %d: it is 1 or 2", o.greeter)
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(o.etcd, ","), DialTimeout: etcdTimeout})
	if err != nil {
		return fmt.Errorf("etcd %s: %w", o.etcd, err)
	}
	defer client.Close()
	if err := follow(ctx, client, o.service); err != nil {
		return fmt.Errorf("etcd %s: %w", o.etcd, err)
	}

	builder, err := resolver.NewBuilder(client)
	if err != nil {
		return err
	}
	dialing := []grpc.DialOption{
		grpc.WithResolvers(builder),
		grpc.WithDefaultServiceConfig(roundRobin),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	if o.authority != "" {
		// Servers on Rust's h2 refuse an authority with a %: a service with a slash in its name wants another one for them.
		dialing = append(dialing, grpc.WithAuthority(o.authority))
	}
	conn, err := grpc.NewClient("etcd:///"+o.service, dialing...)
	if err != nil {
		return err
	}
	defer conn.Close()
	for n := 0; (o.calls == 0 || n < o.calls) && ctx.Err() == nil; n++ {
		if n > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(o.interval):
			}
		}
		call(ctx, conn, o)
	}
	return nil
}

// follow prints the service's endpoints as they come and go. The resolver reads the same keys, but hands on only addresses.
func follow(ctx context.Context, client *clientv3.Client, service string) error {
	manager, err := endpoints.NewManager(client, service)
	if err != nil {
		return err
	}
	listing, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	// Once with a time limit: NewWatchChannel's context lives as long as the channel, so an etcd that is not there would hang it.
	if _, err := manager.List(listing); err != nil {
		return err
	}
	changes, err := manager.NewWatchChannel(ctx)
	if err != nil {
		return err
	}
	go func() {
		for batch := range changes {
			for _, change := range batch {
				if change.Op == endpoints.Delete {
					fmt.Println("down", change.Key)
					continue
				}
				extra, err := json.Marshal(change.Endpoint.Metadata)
				if err != nil {
					log.Printf("the metadata of %s: %v", change.Key, err)
				}
				fmt.Printf("up %s %s %s\n", change.Key, change.Endpoint.Addr, extra)
			}
		}
		if ctx.Err() == nil {
			log.Print("the watch has ended: from now on the endpoints stay as they are")
		}
	}()
	return nil
}

func call(ctx context.Context, conn *grpc.ClientConn, o options) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var header metadata.MD
	var reply *hello.HelloResponse
	var err error
	request := &hello.HelloRequest{Name: "hello"}
	if o.greeter == 1 {
		reply, err = hello.NewGreeter1Client(conn).SayHello1(ctx, request, grpc.Header(&header))
	} else {
		reply, err = hello.NewGreeter2Client(conn).SayHello2(ctx, request, grpc.Header(&header))
	}
	if err != nil {
		fmt.Printf("failed %s %q\n", status.Code(err), status.Convert(err).Message())
		return
	}
	fmt.Printf("answer %s %s\n", strings.Join(header.Get(instanceHeader), ","), reply.GetReply())
}
