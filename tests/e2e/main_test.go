// Package e2e tests the product as its users meet it: the built binaries, a
// real server, real VMs. It needs root, and loopback only.
package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// suite is the server that all tests share, unless they need their own.
var suite *server.Server

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("skipping: the end-to-end tests need root")
		return
	}
	if os.Getenv(apartEnv) != "" {
		os.Exit(m.Run()) // a test on its own host starts what it needs
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "aetherium-e2e-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	// To try a test again and again: a root filesystem to make base from, at once.
	rootfs := os.Getenv("AETHERIUM_TEST_ROOTFS")
	if suite, err = server.New(filepath.Join(dir, "data"), "AETHERIUM_BASE_SKIP="+strconv.FormatBool(rootfs != "")); err == nil {
		err = suite.Start(ctx)
	}
	if err == nil && rootfs != "" {
		_, err = suite.CLI(ctx, "template", "build", "base", "--dir", rootfs)
	}
	if err != nil {
		fmt.Println(err)
		if suite != nil {
			fmt.Println(suite.Log())
			_ = suite.Down(ctx, "--purge")
		}
		return 1
	}
	code := m.Run()
	// The tests may take longer than a start may.
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if code != 0 {
		fmt.Println("the server's log:\n" + tail(suite.Log(), 200))
	}
	if err := suite.Down(ctx, "--purge"); err != nil {
		fmt.Println(err)
		return 1
	}
	if left := suite.Footprint(ctx); len(left) > 0 {
		fmt.Printf("down left something behind: %v\n", left)
		return 1
	}
	return code
}

// connect returns a client of the shared server.
func connect(t *testing.T) *client.Client {
	t.Helper()
	c, err := suite.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// limitEnv holds how long a step of a test may take, on a host on which all is slow.
const limitEnv = "AETHERIUM_TEST_LIMIT"

func limit(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv(limitEnv)
	if text == "" {
		return 2 * time.Minute
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// limited is a context for one step of a test, which ends the test before the
// runner would.
func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit(t))
	t.Cleanup(cancel)
	return ctx
}

// patient returns a client of a server that is killed meanwhile: it waits for it
// as long as a step may take.
func patient(t *testing.T, s *server.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{URL: s.URL, Key: s.Key, Patience: limit(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
