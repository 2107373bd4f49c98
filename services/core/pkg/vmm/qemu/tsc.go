package qemu

import (
	"time"
)

// tscRate measures, in kHz, how fast the host's time stamp counter runs. In
// emulation the guest's is the same one, and a kernel that is told the rate need
// not find it out: its own measurement takes time, and fails now and then on a
// busy host, upon which it never boots.
func tscRate() uint64 {
	const span = 50 * time.Millisecond
	t0, c0 := tscPoint()
	time.Sleep(span)
	t1, c1 := tscPoint()
	if c1 <= c0 {
		return 0
	}
	return (c1 - c0) * uint64(time.Millisecond) / uint64(t1.Sub(t0))
}

// tscPoint reads clock and counter at the same moment: the closest pair of a few,
// for the thread may be put aside in between.
func tscPoint() (at time.Time, count uint64) {
	best := ^uint64(0)
	for range 16 {
		before := readTSC()
		now := time.Now()
		after := readTSC()
		if after-before < best {
			best, at, count = after-before, now, before+(after-before)/2
		}
	}
	return at, count
}
