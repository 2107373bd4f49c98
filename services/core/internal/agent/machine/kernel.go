package machine

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// OOMKills counts the processes that the machine's own kernel ended for want of
// memory (/proc/vmstat, oom_kill).
func OOMKills() int64 {
	n, _ := field("/proc/vmstat", "oom_kill")
	return int64(n)
}

// kthreadd is the parent of all threads of the kernel.
const kthreadd = 2

// Threads counts the threads of programs, those of the kernel left out.
func Threads() int64 {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0
	}
	total := 0
	for _, path := range stats {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name in parentheses may hold anything; fields count from its end (proc_pid_stat(5)).
		text := string(raw)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		if len(fields) < 18 || strings.HasPrefix(text, strconv.Itoa(kthreadd)+" ") || fields[1] == strconv.Itoa(kthreadd) {
			continue
		}
		if n, err := strconv.Atoi(fields[17]); err == nil {
			total += n
		}
	}
	return int64(total)
}
