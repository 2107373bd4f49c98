// Command agent stands in for the guest agent in the driver's own tests: it
// runs shell scripts that come over the listening socket in descriptor 3, and
// ends on SIGTERM.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	listener, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		os.Exit(3)
	}
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGTERM)
	go func() {
		<-ending
		os.Exit(7)
	}()
	http.HandleFunc("POST /sh", func(w http.ResponseWriter, r *http.Request) {
		script, _ := io.ReadAll(r.Body)
		cmd := exec.Command("/bin/sh", "-c", "echo 500 >/proc/self/oom_score_adj\n"+string(script))
		if uid, err := strconv.Atoi(r.URL.Query().Get("uid")); err == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			out = append(out, "\n"+err.Error()...)
		}
		_, _ = w.Write(out)
	})
	// The error of a system call, by number and first two arguments.
	http.HandleFunc("POST /syscall", func(w http.ResponseWriter, r *http.Request) {
		var nr, a, b uintptr
		if _, err := fmt.Fscan(r.Body, &nr, &a, &b); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _, errno := syscall.Syscall(nr, a, b, 0)
		fmt.Fprintln(w, int(errno))
	})
	http.HandleFunc("POST /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.URL.Query().Get("code"))
		os.Exit(code)
	})
	// A file's extended attribute, set from the body or read.
	http.HandleFunc("POST /setxattr", func(w http.ResponseWriter, r *http.Request) {
		value, _ := io.ReadAll(r.Body)
		if err := syscall.Setxattr(r.URL.Query().Get("path"), r.URL.Query().Get("name"), value, 0); err != nil {
			_, _ = io.WriteString(w, err.Error())
		}
	})
	http.HandleFunc("POST /getxattr", func(w http.ResponseWriter, r *http.Request) {
		value := make([]byte, 4096)
		n, err := syscall.Getxattr(r.URL.Query().Get("path"), r.URL.Query().Get("name"), value)
		if err != nil {
			_, _ = io.WriteString(w, err.Error())
			return
		}
		_, _ = w.Write(value[:n])
	})
	// The agent itself uses more memory than it may.
	http.HandleFunc("POST /eat", func(http.ResponseWriter, *http.Request) {
		var eaten [][]byte
		for {
			eaten = append(eaten, make([]byte, 16<<20))
			for i := range eaten[len(eaten)-1] {
				eaten[len(eaten)-1][i] = 1
			}
		}
	})
	// A TCP server on an address, which greets.
	http.HandleFunc("POST /serve", func(w http.ResponseWriter, r *http.Request) {
		l, err := net.Listen("tcp", r.URL.Query().Get("on"))
		if err != nil {
			_, _ = io.WriteString(w, err.Error())
			return
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(c, "hello from the machine")
				_ = c.Close()
			}
		}()
	})
	os.Exit(func() int { _ = http.Serve(listener, nil); return 4 }())
}
