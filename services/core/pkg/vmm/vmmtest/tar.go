package vmmtest

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
)

var tarTests = []behaviour{
	{"a tree goes in and comes out", nil, testTar},
	{"archives that would leave the directory", nil, testTarTraversal},
	{"archives that are broken", nil, testTarBroken},
}

// archive makes a tar of entries; content is a link's target.
func archive(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func testTar(t *testing.T, b *bed) {
	x := b.machine(t)
	dir := path.Join(x.home(t), "tree")
	x.sh(t, "mkdir "+dir)
	long := strings.Repeat("long-name/", 20) + "file"
	up := archive(t,
		tar.Header{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeReg, Name: "bin/run", Linkname: "#!/bin/sh\necho it runs\n", Mode: 0o755},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "link", Linkname: "bin/run"},
		tar.Header{Typeflag: tar.TypeReg, Name: long, Linkname: "deep"},
	)
	if err := x.client.TarUp(timeout(t), dir, bytes.NewReader(up), vmm.FileOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := x.sh(t, dir+"/link; cat "+dir+"/"+long); got != "it runs\ndeep" {
		t.Errorf("%q", got)
	}
	down, err := x.client.TarDown(timeout(t), dir, vmm.FileOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = down.Close() }()
	found := map[string]string{}
	r := tar.NewReader(down)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, suffix := range []string{"bin/run", "link", long} {
			if strings.HasSuffix(h.Name, suffix) {
				found[suffix] = string(content) + h.Linkname
			}
		}
	}
	if found["bin/run"] != "#!/bin/sh\necho it runs\n" || found["link"] != "bin/run" || found[long] != "deep" {
		t.Errorf("%q", found)
	}
}

func testTarTraversal(t *testing.T, b *bed) {
	x := b.machine(t)
	home := x.home(t)
	x.sh(t, "mkdir outside")
	outside := path.Join(home, "outside")
	for name, entries := range map[string][]tar.Header{
		"dots":            {{Typeflag: tar.TypeReg, Name: "../outside/evil", Linkname: "x"}},
		"dots inside":     {{Typeflag: tar.TypeReg, Name: "a/../../outside/evil", Linkname: "x"}},
		"through a link":  {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: outside}, {Typeflag: tar.TypeReg, Name: "out/evil", Linkname: "x"}},
		"relative link":   {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "../outside"}, {Typeflag: tar.TypeReg, Name: "out/evil", Linkname: "x"}},
		"hard link":       {{Typeflag: tar.TypeLink, Name: "hard", Linkname: "../outside/target"}},
		"over a link":     {{Typeflag: tar.TypeSymlink, Name: "f", Linkname: outside + "/evil"}, {Typeflag: tar.TypeReg, Name: "f", Linkname: "x"}},
		"directory links": {{Typeflag: tar.TypeSymlink, Name: "d", Linkname: outside}, {Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}, {Typeflag: tar.TypeReg, Name: "d/evil", Linkname: "x"}},
	} {
		target := path.Join(home, "in-"+strings.ReplaceAll(name, " ", "-"))
		x.sh(t, "mkdir "+target+"; echo secret > outside/target")
		err := x.client.TarUp(timeout(t), target, bytes.NewReader(archive(t, entries...)), vmm.FileOptions{})
		// Refusing is right, and so is replacing the link; writing through it is not.
		if err != nil && !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v", name, err)
		}
		if got := x.sh(t, "ls "+outside); got != "target" {
			t.Errorf("%s: it wrote outside: %q", name, got)
		}
		if strings.HasPrefix(name, "dots") && err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if name == "hard link" && x.sh(t, "stat -c %h outside/target") != "1" {
			t.Error("a hard link to a file outside was made")
		}
	}
	// An absolute name stays below the directory or is refused.
	probe := filepath.Join(t.TempDir(), "on-the-host")
	err := x.client.TarUp(timeout(t), home, bytes.NewReader(archive(t, tar.Header{Typeflag: tar.TypeReg, Name: probe, Linkname: "x"})), vmm.FileOptions{})
	if _, serr := os.Lstat(probe); serr == nil {
		t.Errorf("a file was written to the host (%v)", err)
	}
}

func testTarBroken(t *testing.T, b *bed) {
	x := b.machine(t)
	x.sh(t, "mkdir in")
	whole := archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "file", Linkname: strings.Repeat("x", 10_000)})
	for name, data := range map[string][]byte{
		"cut off": whole[:5000], "no archive": bytes.Repeat([]byte("rubbish "), 1000),
	} {
		if err := x.client.TarUp(timeout(t), "in", bytes.NewReader(data), vmm.FileOptions{}); !errors.HasCode(err, errors.InvalidArgument) {
			t.Errorf("%s: %v, want invalid_argument", name, err)
		}
	}
	if err := x.client.TarUp(timeout(t), "in", &breaking{left: 100}, vmm.FileOptions{}); !errors.Is(err, errBroken) {
		t.Errorf("the source's error: %v", err)
	}
}
