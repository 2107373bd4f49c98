package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// exhaust takes all there is of something, or as much as it is told, says "full N"
// with what it got, and holds it until its input ends.
func exhaust(args []string) {
	most := 1 << 20
	if len(args) > 1 {
		most, _ = strconv.Atoi(args[1])
	}
	var memory [][]byte
	small := make([]byte, 1500) // what file systems keep beside a file's name
	takers := map[string]func(i int) error{
		"inotify": func(int) error { _, err := unix.InotifyInit1(0); return err },
		"terminals": func(int) error {
			_, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
			return err
		},
		"descriptors": func(int) error { _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); return err },
		"files": func(i int) error {
			name := fmt.Sprintf("/full/%s%d", strings.Repeat("n", 200), i)
			return os.WriteFile(name, small, 0o644)
		},
		"asynchronous I/O": func(int) error { return call(unix.SYS_IO_SETUP, 1024, buffer(""))() },
		"message queues": func(i int) error {
			return call(unix.SYS_MQ_OPEN, buffer(fmt.Sprintf("q%d", i)), unix.O_CREAT|unix.O_RDWR, 0o600, 0)()
		},
		"shared memory": func(int) error { return call(unix.SYS_SHMGET, 0, 4096, unix.IPC_CREAT|0o600)() },
		"memory": func(int) error {
			page := make([]byte, 1<<20)
			for i := 0; i < len(page); i += 4096 {
				page[i] = 1
			}
			memory = append(memory, page)
			return nil
		},
		"epolls": func(int) error { _, err := unix.EpollCreate1(0); return err },
		"pipes": func(int) error {
			var p [2]int
			if err := unix.Pipe(p[:]); err != nil {
				return err
			}
			_, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, 1<<20)
			return err
		},
	}
	_ = os.MkdirAll("/full", 0o755)
	n := 0
	var err error
	for ; n < most; n++ {
		if err = takers[args[0]](n); err != nil {
			break
		}
	}
	fmt.Printf("full %d: %v\n", n, err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(memory)
}
