// An etcd server, built from the module that its authors publish.
//
// `go install go.etcd.io/etcd/v3@version` is refused because of the `replace` lines in its go.mod; a module of our own that
// calls the same entry point is not.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
