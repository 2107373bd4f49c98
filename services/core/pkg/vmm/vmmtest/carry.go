package vmmtest

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

// carrier is a driver that takes snapshots to other nodes.
type carrier interface {
	vmm.Snapshotter
	vmm.Carrier
}

func (b *bed) carrier(t *testing.T) carrier {
	t.Helper()
	c, ok := b.Driver.(carrier)
	if !ok {
		t.Fatal("the driver claims to carry snapshots and cannot")
	}
	return c
}

// wrong gives what a reader has, and tells at its end that it was something else.
type wrong struct{ io.Reader }

func (w wrong) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = errors.New(errors.PreconditionFailed, "this is something else")
	}
	return n, err
}

// A snapshot's disk is the same where it is only known by what was packed of it.
func testCarry(t *testing.T, b *bed) {
	c := b.carrier(t)
	origin := b.machine(t)
	origin.sh(t, "echo kept > file; ln file again; ln -s file link; mkdir -p dir/sub; echo in > dir/sub/in; chmod 750 dir; "+
		"truncate -s 64M holes; printf end >> holes")
	look := "cat file again link dir/sub/in; stat -c %s holes; sha256sum < holes"
	if b.config.Isolated {
		// What overlays say of the template: removed, replaced and renamed files.
		if r := origin.run(t, asRoot(shell("cd / && rm usr/bin/env && rm -r usr/share/doc && mkdir usr/share/doc && echo own > usr/share/doc/own && "+
			"mv usr/share/common-licenses usr/share/moved && mkdir -p /opt/tool && chown 1000:33 /opt/tool && chmod 2755 /opt/tool"))); r.end.ExitCode != 0 {
			t.Fatalf("%+v", r)
		}
		look += "; stat -c '%n %a %h %F' again link dir; cd /; ls usr/bin usr/share usr/share/doc | sha256sum; ls usr/bin/env usr/share/common-licenses; find usr/share/moved -type f | sort | sha256sum; stat -c '%a %u %g' opt/tool"
	}
	want := origin.run(t, shell(look)).stdout
	origin.sh(t, "sync")
	kind := domain.SnapshotDisk
	if slices.Contains(b.info.Capabilities, "snapshot:memory") {
		kind = domain.SnapshotMemory
	}
	snap := b.snapshotOf(t, origin.id, kind)
	var packed bytes.Buffer
	if err := c.PackSnapshot(timeout(t), snap, &packed); err != nil {
		t.Fatal(err)
	}
	if n := packed.Len(); n > 48<<20 {
		t.Errorf("holes are carried: %d bytes", n)
	}
	if err := c.PackSnapshot(timeout(t), string(domain.NewID()), io.Discard); !errors.HasCode(err, errors.NotFound) {
		t.Errorf("of no snapshot: %v", err)
	}

	// Without it, this node is as another one.
	if err := c.DeleteSnapshot(timeout(t), snap); err != nil {
		t.Fatal(err)
	}
	limit, whole := b.Spec.Resources.DiskBytes, packed.Bytes()
	for name, in := range map[string]struct {
		r    io.Reader
		code errors.Code
	}{
		"nothing":                        {bytes.NewReader(nil), errors.InvalidArgument},
		"another thing":                  {bytes.NewReader(make([]byte, 4096)), errors.InvalidArgument},
		"cut off":                        {bytes.NewReader(whole[:len(whole)/2]), errors.InvalidArgument},
		"cut off at the end":             {bytes.NewReader(whole[:len(whole)-1]), errors.InvalidArgument},
		"longer":                         {io.MultiReader(bytes.NewReader(whole), bytes.NewReader([]byte{0})), errors.InvalidArgument},
		"what is wrong by its last byte": {wrong{bytes.NewReader(whole)}, errors.PreconditionFailed},
	} {
		if err := c.UnpackSnapshot(timeout(t), snap, limit, in.r); !errors.HasCode(err, in.code) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if ids, err := c.ListSnapshots(timeout(t)); err != nil || slices.Contains(ids, snap) {
		t.Errorf("there is %v of what was refused, %v", ids, err)
	}
	for range 2 {
		if err := c.UnpackSnapshot(timeout(t), snap, limit, bytes.NewReader(whole)); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := c.ListSnapshots(timeout(t)); err != nil || !slices.Contains(ids, snap) {
		t.Errorf("the list: %v, %v", ids, err)
	}
	x := b.machine(t, from(snap))
	if got := x.run(t, shell(look)).stdout; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	x.sh(t, "echo own > file; rm dir/sub/in") // it is the machine's own
}
