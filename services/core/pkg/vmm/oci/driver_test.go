package oci_test

import (
	"testing"
)

const victimEnv = "AETHERIUM_TEST_VICTIM"

func victim(string) int { return 0 }

func TestSmoke(t *testing.T) {
	l := newLab(t)
	l.boot(spec("one"))
	t.Log(l.sh("one", "id; hostname; cat /etc/hosts; cat /proc/1/cmdline; ls -lan / /dev; cat /proc/mounts; echo x > /root/f"))
	t.Logf("%+v", l.Info(t.Context()))
}
