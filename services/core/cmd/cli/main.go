// Command aetherium is the command line. It talks to the API only.
package main

import (
	"context"
	"os"

	"github.com/aetherium/aetherium/services/core/internal/cli"
)

func main() {
	host, release := cli.Process()
	code := cli.Main(context.Background(), os.Args[1:], host)
	release()
	os.Exit(code)
}
