// Generate writes ../hello from proto/hello.proto, without protoc: the descriptors come from this repository's stand-in for it,
// and the two code generators run as the plugins that they are. Run it with `go generate ./...` in examples/go, which needs Rust
// for the stand-in; with -check it writes nothing and fails when the committed files are not what it would write.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

const (
	file   = "hello.proto"
	module = "waymark.example/greeter"
)

// plugins are pinned here, not in go.mod: who builds the programs needs none of them.
var plugins = []string{
	"google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.11",
	"google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
}

func main() {
	log.SetFlags(0)
	check := flag.Bool("check", false, "compare with the committed files instead of writing them")
	root := flag.String("root", "../../..", "the root of the repository, seen from the working directory")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		log.Fatalf("generate: %v", err)
	}
}

func run(root string, check bool) error {
	descriptors, err := describe(root)
	if err != nil {
		return err
	}
	request, err := proto.Marshal(&pluginpb.CodeGeneratorRequest{
		FileToGenerate: []string{file},
		Parameter:      proto.String("module=" + module),
		ProtoFile:      descriptors.GetFile(),
	})
	if err != nil {
		return err
	}
	for _, plugin := range plugins {
		files, err := ask(plugin, request)
		if err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
		for _, generated := range files {
			path := filepath.Join(root, "examples", "go", generated.GetName())
			if err := store(path, []byte(generated.GetContent()), check); err != nil {
				return err
			}
		}
	}
	return nil
}

// describe parses the .proto with the repository's `protoc`, or the one that PROTOC names.
func describe(root string) (*descriptorpb.FileDescriptorSet, error) {
	protoc := os.Getenv("PROTOC")
	if protoc == "" {
		protoc = filepath.Join(root, ".cargo", "protoc", "protoc")
	}
	folder, err := os.MkdirTemp("", "generate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	output := filepath.Join(folder, "descriptors")
	includes := filepath.Join(root, "proto")
	command := exec.Command(protoc, "--include_imports", "--include_source_info", "-I", includes, "-o", output, filepath.Join(includes, file))
	command.Stderr = os.Stderr
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w", protoc, err)
	}
	encoded, err := os.ReadFile(output)
	if err != nil {
		return nil, err
	}
	descriptors := new(descriptorpb.FileDescriptorSet)
	return descriptors, proto.Unmarshal(encoded, descriptors)
}

// ask runs a code generator: one request on its standard input, one response on its standard output.
func ask(plugin string, request []byte) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	command := exec.Command("go", "run", plugin)
	command.Stdin = bytes.NewReader(request)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		return nil, err
	}
	response := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(output, response); err != nil {
		return nil, err
	}
	if response.Error != nil {
		return nil, errors.New(response.GetError())
	}
	return response.GetFile(), nil
}

func store(path string, content []byte, check bool) error {
	if !check {
		return os.WriteFile(path, content, 0o644)
	}
	committed, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(committed, content) {
		return fmt.Errorf("%s is not what %s gives; run `go generate ./...`", strings.TrimPrefix(path, "../"), file)
	}
	return nil
}
