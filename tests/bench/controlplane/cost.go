package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Cost is what the database and this process did meanwhile, and how large the
// database was in the end.
type Cost struct {
	Seconds      float64 `json:"seconds"`
	Transactions int64   `json:"transactions"`
	LogBytes     int64   `json:"write_ahead_log_bytes"`
	CPUSeconds   float64 `json:"process_cpu_seconds"` // gateway and workers, without the database
	DatabaseCPU  float64 `json:"database_cpu_seconds"`
	Size         int64   `json:"database_bytes"`
	Heap         int64   `json:"process_resident_bytes"` // the most so far
}

// meter reads what has been done so far.
type meter struct {
	conn     *pgx.Conn
	database int // its first process
}

func (m meter) read(ctx context.Context) (c Cost, err error) {
	// What sessions have counted they tell once a second at most.
	select {
	case <-time.After(1200 * time.Millisecond):
	case <-ctx.Done():
		return c, ctx.Err()
	}
	err = m.conn.QueryRow(ctx, `SELECT xact_commit, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, pg_database_size(datname)
		FROM pg_stat_database WHERE datname = current_database()`).Scan(&c.Transactions, &c.LogBytes, &c.Size)
	if err != nil {
		return c, err
	}
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return c, err
	}
	c.CPUSeconds = time.Duration(used.Utime.Nano() + used.Stime.Nano()).Seconds()
	c.Heap = used.Maxrss << 10
	c.DatabaseCPU, err = treeCPU(m.database)
	return c, err
}

// treeCPU is the processor time of a process, its children, and those of them
// that have ended, in seconds.
func treeCPU(pid int) (float64, error) {
	// User and system, 14 and 15 of what proc_pid_stat(5) counts from 1, and the
	// same of children that were waited for. The name before them may have spaces.
	const ticks = 100 // a second, for programs of users
	read := func(pid string) (parent int, cpu float64, err error) {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil {
			return 0, 0, err
		}
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(f) < 15 {
			return 0, 0, fmt.Errorf("/proc/%s/stat is not as expected", pid)
		}
		parent, err = strconv.Atoi(f[1])
		for _, t := range f[11:15] {
			n, perr := strconv.ParseUint(t, 10, 63)
			cpu, err = cpu+float64(n)/ticks, errors.Join(err, perr)
		}
		return parent, cpu, err
	}
	_, sum, err := read(strconv.Itoa(pid))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		parent, cpu, err := read(filepath.Base(dir))
		if err == nil && parent == pid { // those that end meanwhile are the parent's
			sum += cpu
		}
	}
	return sum, err
}

// measured runs a step and says what it cost.
func (m meter) measured(ctx context.Context, step func() (Row, error)) (Row, error) {
	before, err := m.read(ctx)
	if err != nil {
		return Row{}, err
	}
	begun := time.Now()
	row, err := step()
	if err != nil {
		return row, err
	}
	took := time.Since(begun)
	after, err := m.read(ctx)
	row.Cost = Cost{
		Seconds: took.Seconds(), Transactions: after.Transactions - before.Transactions, LogBytes: after.LogBytes - before.LogBytes,
		CPUSeconds: after.CPUSeconds - before.CPUSeconds, DatabaseCPU: after.DatabaseCPU - before.DatabaseCPU, Size: after.Size, Heap: after.Heap,
	}
	return row, err
}

// rest does nothing: what VMs cost that are there.
func (f *fleet) rest(ctx context.Context, d time.Duration) (Row, error) {
	select {
	case <-time.After(d):
		return Row{Name: "at rest", VMs: f.count()}, nil
	case <-ctx.Done():
		return Row{}, ctx.Err()
	}
}
