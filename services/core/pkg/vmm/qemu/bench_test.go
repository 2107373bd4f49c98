package qemu_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Each iteration ends with the guest's answer to a first question.

func BenchmarkBoot(b *testing.B) {
	l := newLab(b)
	for range b.N {
		b.StopTimer()
		g := l.guest(nil)
		b.StartTimer()
		l.boot(g)
		l.ask(g, "GET", "/hello")
		b.StopTimer()
		l.end(g.UID)
	}
}

func BenchmarkRestore(b *testing.B) { benchmarkRestore(b, false) }

// BenchmarkThaw is of guests that were restored before and stood still.
func BenchmarkThaw(b *testing.B) { benchmarkRestore(b, true) }

func benchmarkRestore(b *testing.B, before bool) {
	l := newLab(b)
	origin := l.guest(nil)
	l.boot(origin)
	l.ask(origin, "GET", "/hello")
	saved := l.save(origin, false)
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		g := l.guest(&origin)
		if before {
			l.restore(g, saved)
		}
		b.StartTimer()
		if !before {
			l.restore(g, saved)
		}
		l.thaw(g)
		l.ask(g, "GET", "/hello")
		b.StopTimer()
		l.end(g.UID)
	}
}

// end ends a user's monitors, so that they do not take part in what is measured next.
func (l *lab) end(uid uint32) {
	l.t.Helper()
	for _, m := range processesOf(l.t, uid) {
		must(l.t, m.Signal(unix.SIGKILL))
		must(l.t, m.Wait())
	}
}
