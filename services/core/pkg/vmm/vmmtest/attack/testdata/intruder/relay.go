package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// relay connects who comes to a port of the machine's loopback with where the
// first line says, as "tcp4 203.0.113.10:80", from here. It says "ready", and
// answers that line with "+", or with "-" and why not. It ends with its input.
func relay(args []string) {
	l, err := net.Listen("tcp4", "127.0.0.1:"+args[0])
	if err != nil {
		breach("relay", "%v", err)
		return
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go pass(c)
		}
	}()
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func pass(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	line, err := r.ReadString('\n')
	network, address, ok := strings.Cut(strings.TrimSpace(line), " ")
	if err != nil || !ok {
		return
	}
	to, err := net.DialTimeout(network, address, 10*time.Second)
	if err != nil {
		fmt.Fprintf(c, "-%v\n", err)
		return
	}
	defer to.Close()
	fmt.Fprintln(c, "+")
	go func() { _, _ = io.Copy(to, r) }()
	_, _ = io.Copy(c, to)
}
