/* A vDSO that asks the kernel, and tells a time of day that is ahead of the
 * kernel's by what stands in its own image. */

struct timespec { long sec, nsec; };
struct timeval { long sec, usec; };

enum { SYS_clock_gettime = 228, CLOCK_REALTIME = 0, CLOCK_REALTIME_COARSE = 5 };

/* In seconds. Whoever has the image's file writes it. */
__attribute__((visibility("hidden"))) const volatile long ahead = 0;

static int get(int clock, struct timespec *ts)
{
	long err;
	__asm__ volatile("syscall" : "=a"(err) : "a"(SYS_clock_gettime), "D"((long)clock), "S"(ts) : "rcx", "r11", "memory");
	if (!err && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		ts->sec += ahead;
	return err;
}

int __vdso_clock_gettime(int clock, struct timespec *ts) { return get(clock, ts); }

int __vdso_gettimeofday(struct timeval *tv, void *zone)
{
	struct timespec ts;
	int err = get(CLOCK_REALTIME, &ts);
	tv->sec = ts.sec;
	tv->usec = ts.nsec / 1000;
	return err;
}
