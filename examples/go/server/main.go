// Server is a Greeter that registers itself with the etcd project's own naming package, as Go programs do. It knows nothing of
// Waymark. With -register=false it is a plain Greeter, for somebody else to register.
//
// What happens is printed, a line each:
//
//	serving ADDRESS
//	registered KEY lease ID        again after every loss of the lease
//	lost KEY: REASON
//	deregistered KEY               after SIGTERM or SIGINT
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os/signal"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"waymark.example/greeter/hello"
)

const (
	// instanceHeader is the response metadata that says who answered.
	instanceHeader = "greeter-instance"
	// etcdTimeout bounds each call to etcd.
	etcdTimeout = 3 * time.Second
	// retryAfter is the pause after a registration that failed.
	retryAfter = 500 * time.Millisecond
	// drainTimeout bounds the calls that still run at the end.
	drainTimeout = 5 * time.Second
)

type options struct {
	service, listen, advertise, etcd, greeter, metadata string
	ttl                                                 int64
	register                                            bool
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("server: ")
	var o options
	flag.StringVar(&o.service, "service", "ayang/server1", "the service to register under")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "where to listen; port 0 takes a free one")
	flag.StringVar(&o.advertise, "advertise", "", "the address to register; default: the one listened on")
	flag.StringVar(&o.etcd, "etcd", "http://127.0.0.1:2379", "etcd's endpoints, separated by commas")
	flag.StringVar(&o.greeter, "greeter", "both", "which service to offer: 1, 2 or both")
	flag.StringVar(&o.metadata, "metadata", "null", "the endpoint's metadata: any JSON")
	flag.BoolVar(&o.register, "register", true, "whether to register; with false it only serves, and somebody else registers it")
	flag.Int64Var(&o.ttl, "ttl", 10, "the lease's time to live, in seconds")
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
	var extra any
	if err := json.Unmarshal([]byte(o.metadata), &extra); err != nil {
		return fmt.Errorf("-metadata %q is not JSON: %w", o.metadata, err)
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	address := listener.Addr().String()
	if o.advertise == "" {
		o.advertise = address
	}
	server, err := newServer(o.greeter, address)
	if err != nil {
		return err
	}
	var registration *registration
	if o.register {
		if registration, err = newRegistration(o, extra); err != nil {
			return err
		}
		defer registration.client.Close()
	}

	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	fmt.Println("serving", address)
	left := make(chan struct{})
	go func() {
		defer close(left)
		if registration != nil {
			registration.keep(ctx)
		}
		<-ctx.Done()
	}()

	select {
	case err := <-ended:
		return err
	case <-left: // a signal came: out of the registry first, so that no new call is sent here
	}
	cut := time.AfterFunc(drainTimeout, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	return nil
}

// registration keeps one endpoint in etcd.
type registration struct {
	client   *clientv3.Client
	manager  endpoints.Manager
	key      string
	endpoint endpoints.Endpoint
	ttl      int64
}

func newRegistration(o options, extra any) (*registration, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(o.etcd, ","), DialTimeout: etcdTimeout})
	if err != nil {
		return nil, fmt.Errorf("etcd %s: %w", o.etcd, err)
	}
	manager, err := endpoints.NewManager(client, o.service)
	if err != nil {
		client.Close()
		return nil, fmt.Errorf("service %q: %w", o.service, err)
	}
	return &registration{
		client:   client,
		manager:  manager,
		key:      o.service + "/" + o.advertise,
		endpoint: endpoints.Endpoint{Addr: o.advertise, Metadata: extra},
		ttl:      o.ttl,
	}, nil
}

// keep registers, again after every loss, until the context ends; then it takes the endpoint out.
func (r *registration) keep(ctx context.Context) {
	for ctx.Err() == nil {
		lease, err := r.register(ctx)
		if err == nil {
			fmt.Printf("registered %s lease %x\n", r.key, lease)
			err = r.keepAlive(ctx, lease)
		}
		if ctx.Err() != nil {
			if lease != clientv3.NoLease {
				r.revoke(lease)
			}
			return
		}
		fmt.Printf("lost %s: %v\n", r.key, err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
}

func (r *registration) register(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	granted, err := r.client.Grant(ctx, r.ttl)
	if err != nil {
		return clientv3.NoLease, err
	}
	return granted.ID, r.manager.AddEndpoint(ctx, r.key, r.endpoint, clientv3.WithLease(granted.ID))
}

// keepAlive returns when the lease is lost or the context ends. The client sends a keep-alive every third of the TTL.
func (r *registration) keepAlive(ctx context.Context, lease clientv3.LeaseID) error {
	answers, err := r.client.KeepAlive(ctx, lease)
	if err != nil {
		return err
	}
	for range answers {
	}
	return errors.New("the lease has ended")
}

func (r *registration) revoke(lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
	defer cancel()
	if _, err := r.client.Revoke(ctx, lease); err != nil {
		log.Printf("%s stays until its lease ends: %v", r.key, err)
		return
	}
	fmt.Println("deregistered", r.key)
}

func newServer(which, address string) (*grpc.Server, error) {
	server := grpc.NewServer()
	checks := health.NewServer()
	healthpb.RegisterHealthServer(server, checks)
	one, two := which == "1" || which == "both", which == "2" || which == "both"
	if !one && !two {
		return nil, fmt.Errorf("-greeter %q: it is 1, 2 or both", which)
	}
	if one {
		hello.RegisterGreeter1Server(server, greeter1{instance: instance(address)})
		checks.SetServingStatus(hello.Greeter1_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	if two {
		hello.RegisterGreeter2Server(server, greeter2{instance: instance(address)})
		checks.SetServingStatus(hello.Greeter2_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
	}
	return server, nil
}

// instance is the address that a server calls itself by.
type instance string

func (i instance) answer(ctx context.Context, reply string) (*hello.HelloResponse, error) {
	if err := grpc.SetHeader(ctx, metadata.Pairs(instanceHeader, string(i))); err != nil {
		return nil, err
	}
	return &hello.HelloResponse{Reply: reply}, nil
}

type greeter1 struct {
	hello.UnimplementedGreeter1Server
	instance
}

func (g greeter1) SayHello1(ctx context.Context, _ *hello.HelloRequest) (*hello.HelloResponse, error) {
	return g.answer(ctx, "server1:hello")
}

type greeter2 struct {
	hello.UnimplementedGreeter2Server
	instance
}

func (g greeter2) SayHello2(ctx context.Context, _ *hello.HelloRequest) (*hello.HelloResponse, error) {
	return g.answer(ctx, "server2:hello")
}
