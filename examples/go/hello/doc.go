// Package hello is the Go code of proto/hello.proto. The files *.pb.go are generated; see ../generate.
package hello

//go:generate go run ../generate
