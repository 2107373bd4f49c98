package agent_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"
)

func (r *rig) file(method, path, user string, body io.Reader, more ...string) (int, http.Header, string) {
	r.t.Helper()
	query := url.Values{"path": {path}, "username": {user}}
	var headers []string
	for i := 0; i+1 < len(more); i += 2 {
		if more[i] == "mode" {
			query.Set("mode", more[i+1])
			continue
		}
		headers = append(headers, more[i], more[i+1])
	}
	return call(r.t, r.host, method, "http://agent/aetherium/file?"+query.Encode(), body, headers...)
}

func TestFileReplace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	path := r.home + "/deep/er/file"
	status, _, body := r.file("PUT", "deep/er/file", "user", strings.NewReader("one"), "mode", "4750")
	if status != 200 || !strings.Contains(body, `"path":"`+path+`"`) || !strings.Contains(body, `"owner":"user"`) {
		t.Fatalf("new: %d %s", status, body)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode() != 0o750|os.ModeSetuid {
		t.Errorf("mode %v", info.Mode())
	}
	must(t, os.Chown(path, 1001, 2000))
	must(t, os.Chmod(path, 0o666|os.ModeSetuid))
	if status, _, body := r.file("PUT", path, "root", strings.NewReader("two")); status != 200 {
		t.Fatalf("replace: %d %s", status, body)
	}
	var st unix.Stat_t
	must(t, unix.Stat(path, &st))
	if st.Uid != 1001 || st.Gid != 2000 || st.Mode&0o7777 != 0o666 {
		t.Errorf("owner %d:%d mode %o", st.Uid, st.Gid, st.Mode)
	}
	if status, _, _ := r.file("PUT", path, "user", strings.NewReader("three"), "mode", "0777"); status != 403 {
		t.Errorf("only the owner may change the mode: %d", status)
	}
	must(t, os.Symlink(path, r.home+"/link"))
	if status, _, _ := r.file("PUT", "link", "user", strings.NewReader("through the link")); status != 200 {
		t.Errorf("through a link: %d", status)
	}
	if info, err := os.Lstat(r.home + "/link"); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is now %v %v", info, err)
	}
	// Upload that breaks off: the old content stays, and nothing else is left.
	req, err := http.NewRequestWithContext(r.ctx, http.MethodPut, "http://agent/aetherium/file?username=user&path="+path,
		io.MultiReader(strings.NewReader("part"), iotest.ErrReader(io.ErrUnexpectedEOF)))
	must(t, err)
	if res, err := r.host.Do(req); err == nil {
		_ = res.Body.Close()
	}
	if status, _, body := r.file("GET", path, "user", nil); status != 200 || body != "through the link" {
		t.Errorf("after a broken upload: %d %q", status, body)
	}
	if status, h, body := r.file("GET", path, "user", nil, "Range", "bytes=8-10"); status != 206 || body != "the" || h.Get("Content-Range") != "bytes 8-10/16" {
		t.Errorf("range: %d %q %v", status, body, h)
	}
	for name, tc := range map[string]struct {
		path, mode string
		status     int
		code       string
	}{
		"a directory": {r.home, "", 400, "invalid_argument"},
		"mode":        {path, "9", 400, "invalid_argument"},
		"a pipe":      {"/dev/null", "", 400, "invalid_argument"},
	} {
		status, _, body := r.file("PUT", tc.path, "root", strings.NewReader("x"), "mode", tc.mode)
		if status != tc.status || !strings.Contains(body, `"code":"`+tc.code+`"`) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// A mount point cannot be renamed over: it is written in place.
func TestFileReplaceOnMountPoint(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	source, target := r.home+"/source", r.home+"/mounted"
	must(t, os.WriteFile(source, []byte("old and long"), 0o644))
	must(t, os.WriteFile(target, nil, 0o644))
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("bind mounts are not allowed here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	if status, _, body := r.file("PUT", target, "root", strings.NewReader("new")); status != 200 {
		t.Fatalf("put: %d %s", status, body)
	}
	if b, _ := os.ReadFile(source); string(b) != "new" {
		t.Errorf("source is %q", b)
	}
	if list, _ := os.ReadDir(r.home); len(list) != 2 {
		t.Errorf("left behind: %v", list)
	}
}

func (r *rig) tar(method, path, user string, body io.Reader) (int, string) {
	r.t.Helper()
	status, _, text := call(r.t, r.host, method, "http://agent/aetherium/tar?"+url.Values{"path": {path}, "username": {user}}.Encode(), body)
	return status, text
}

func TestTarRoundTrip(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	src, dst := r.home+"/src", r.home+"/dst"
	must(t, os.MkdirAll(src+"/sub/empty", 0o755))
	must(t, os.WriteFile(src+"/sub/data", bytes.Repeat([]byte("tar"), 100000), 0o600))
	must(t, os.WriteFile(src+"/exec", []byte("#!/bin/sh\n"), 0o755))
	must(t, os.Link(src+"/exec", src+"/hard"))
	must(t, os.Symlink("../outside/of", src+"/sub/link"))
	must(t, unix.Mkfifo(src+"/pipe", 0o644))
	long := strings.Repeat("long/", 60) + "name"
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(src, long)), 0o755))
	must(t, os.WriteFile(filepath.Join(src, long), []byte("deep"), 0o644))
	hasXattr := unix.Setxattr(src+"/exec", "user.note", []byte("kept"), 0) == nil
	must(t, os.Chmod(src+"/sub", 0o2750))
	then := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, name := range []string{"sub/data", "sub/empty", "sub", "exec"} {
		must(t, os.Chtimes(filepath.Join(src, name), then, then))
	}
	status, stream := r.tar("GET", src, "root", nil)
	if status != 200 {
		t.Fatalf("pack: %d %s", status, stream)
	}
	if status, text := r.tar("PUT", dst, "user", strings.NewReader(stream)); status != 204 {
		t.Fatalf("unpack: %d %s", status, text)
	}
	seen := 0
	must(t, filepath.Walk(src, func(path string, a os.FileInfo, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(src, path)
		b, err := os.Lstat(filepath.Join(dst, rel))
		if rel == "pipe" {
			if !os.IsNotExist(err) {
				t.Error("the pipe travelled")
			}
			return nil
		}
		must(t, err)
		seen++
		if a.Mode() != b.Mode() && rel != "sub" || rel == "sub" && b.Mode().Perm() != 0o750 {
			t.Errorf("%s: mode %v, was %v", rel, b.Mode(), a.Mode())
		}
		if a.Mode()&os.ModeSymlink == 0 && !a.ModTime().Equal(b.ModTime()) {
			t.Errorf("%s: time %v, was %v", rel, b.ModTime(), a.ModTime())
		}
		if a.Mode().IsRegular() {
			x, _ := os.ReadFile(path)
			y, _ := os.ReadFile(filepath.Join(dst, rel))
			if !bytes.Equal(x, y) {
				t.Errorf("%s: content differs", rel)
			}
		}
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dst, rel), &st))
		if st.Uid != 1000 {
			t.Errorf("%s belongs to %d", rel, st.Uid)
		}
		if rel == "exec" && st.Nlink != 2 {
			t.Errorf("exec has %d links", st.Nlink)
		}
		return nil
	}))
	if seen < 60 {
		t.Errorf("only %d entries", seen)
	}
	if link, _ := os.Readlink(dst + "/sub/link"); link != "../outside/of" {
		t.Errorf("link to %q", link)
	}
	value := make([]byte, 16)
	if n, _ := unix.Getxattr(dst+"/exec", "user.note", value); hasXattr && string(value[:max(n, 0)]) != "kept" {
		t.Errorf("attribute %q", value[:max(n, 0)])
	}
	status, stream = r.tar("GET", src+"/exec", "root", nil)
	h, err := tar.NewReader(strings.NewReader(stream)).Next()
	if status != 200 || err != nil || h.Name != "exec" {
		t.Errorf("a single file: %d %v %v", status, h, err)
	}
	for path, want := range map[string]int{r.home + "/none": 404, "/dev/null": 400} {
		if status, text := r.tar("GET", path, "root", nil); status != want {
			t.Errorf("pack %s: %d %s", path, status, text)
		}
	}
}

// A tree that cannot be read whole must not look whole.
func TestTarBreaksOffVisibly(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	must(t, os.MkdirAll(r.home+"/tree", 0o755))
	must(t, os.WriteFile(r.home+"/tree/secret", []byte("x"), 0o600))
	req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "http://agent/aetherium/tar?username=user&path=tree", nil)
	must(t, err)
	res, err := r.host.Do(req)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	if err == nil {
		t.Error("the stream ended as if it were whole")
	}
}

// entry is one entry of an archive made by hand.
type entry struct {
	kind       byte
	name, link string
	body       string
}

func archiveOf(t testing.TB, entries ...entry) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		must(t, w.WriteHeader(&tar.Header{Typeflag: e.kind, Name: e.name, Linkname: e.link, Size: int64(len(e.body)), Mode: 0o644}))
		_, err := w.Write([]byte(e.body))
		must(t, err)
	}
	must(t, w.Close())
	return &b
}

func TestTarCannotLeave(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	outside := r.home + "/outside"
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(outside+"/victim", []byte("intact"), 0o644))
	reg, dir, sym, hard := byte(tar.TypeReg), byte(tar.TypeDir), byte(tar.TypeSymlink), byte(tar.TypeLink)
	for name, entries := range map[string][]entry{
		"absolute name":                   {{reg, outside + "/victim", "", "bad"}},
		"dot-dot":                         {{reg, "../outside/victim", "", "bad"}},
		"dot-dot inside":                  {{reg, "a/../../outside/victim", "", "bad"}},
		"through a planted link":          {{sym, "l", outside, ""}, {reg, "l/victim", "", "bad"}},
		"through a relative link":         {{sym, "l", "../outside", ""}, {reg, "l/victim", "", "bad"}},
		"through a chain of links":        {{sym, "a", ".", ""}, {sym, "a/b", "a/..", ""}, {reg, "b/outside/victim", "", "bad"}},
		"through a link that was there":   {{reg, "pre/victim", "", "bad"}},
		"a directory through a link":      {{sym, "l", outside, ""}, {dir, "l/planted", "", ""}},
		"a link through a link":           {{sym, "l", outside, ""}, {sym, "l/planted", "x", ""}},
		"hard link to an absolute name":   {{hard, "h", outside + "/victim", ""}},
		"hard link out":                   {{hard, "h", "../outside/victim", ""}},
		"hard link through a link":        {{sym, "l", outside, ""}, {hard, "h", "l/victim", ""}},
		"write through a hard linked one": {{hard, "h", "pre/victim", ""}, {reg, "h", "", "bad"}},
		"a device":                        {{tar.TypeChar, "null", "", ""}},
		"a pipe":                          {{tar.TypeFifo, "fifo", "", ""}},
		"the directory as a link":         {{sym, ".", outside, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			target := filepath.Join(t.TempDir(), "target")
			must(t, os.Mkdir(target, 0o755))
			must(t, os.Symlink(outside, target+"/pre"))
			r := *r
			r.t = t
			status, text := r.tar("PUT", target, "root", archiveOf(t, entries...))
			if status != 400 || !strings.Contains(text, `"code":"invalid_argument"`) {
				t.Errorf("%d %s", status, text)
			}
			if list, _ := os.ReadDir(outside); len(list) != 1 {
				t.Errorf("outside now holds %v", list)
			}
			if b, _ := os.ReadFile(outside + "/victim"); string(b) != "intact" {
				t.Errorf("the victim is %q", b)
			}
		})
	}
	t.Run("a link in a file's place is replaced, not followed", func(t *testing.T) {
		target := filepath.Join(t.TempDir(), "target")
		must(t, os.Mkdir(target, 0o755))
		must(t, os.Symlink(outside+"/victim", target+"/f"))
		if status, text := r.tar("PUT", target, "root", archiveOf(t, entry{reg, "f", "", "mine"})); status != 204 {
			t.Errorf("%d %s", status, text)
		}
		if b, _ := os.ReadFile(outside + "/victim"); string(b) != "intact" {
			t.Errorf("the victim is %q", b)
		}
	})
	t.Run("not a tar", func(t *testing.T) {
		if status, text := r.tar("PUT", r.home+"/x", "root", strings.NewReader(strings.Repeat("garbage", 1000))); status != 400 {
			t.Errorf("%d %s", status, text)
		}
		whole := archiveOf(t, entry{reg, "f", "", strings.Repeat("x", 5000)}).Bytes()
		if status, text := r.tar("PUT", r.home+"/x", "root", bytes.NewReader(whole[:2000])); status != 400 {
			t.Errorf("cut off: %d %s", status, text)
		}
	})
}

func TestPort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b, _ := io.ReadAll(c) // until the client's end of stream
				_, _ = fmt.Fprintf(c, "got %s", b)
				_ = c.Close()
			}()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	c := r.upgrade(port, "hel")
	_, err = c.Write([]byte("lo"))
	must(t, err)
	must(t, c.CloseWrite())
	if b, err := io.ReadAll(c); string(b) != "got hello" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	must(t, l.Close())
	status, _, body := call(t, r.host, "POST", fmt.Sprintf("http://agent/aetherium/port/%d", port), nil, "Connection", "Upgrade", "Upgrade", "tcp")
	if status != 503 || !strings.Contains(body, `"code":"unavailable"`) {
		t.Errorf("a closed port: %d %s", status, body)
	}
	for path, want := range map[string]int{"0": 400, "65536": 400, "x": 400} {
		if status, _, _ := call(t, r.host, "POST", "http://agent/aetherium/port/"+path, nil, "Connection", "Upgrade", "Upgrade", "tcp"); status != want {
			t.Errorf("port %s: %d", path, status)
		}
	}
}

// upgrade opens a byte pipe to a port, with the request and the first bytes in
// one write as fast clients have it.
func (r *rig) upgrade(port int, early string) *net.UnixConn {
	r.t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(context.Background(), "unix", r.socket)
	must(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	must(r.t, conn.SetDeadline(time.Now().Add(limit)))
	_, err = fmt.Fprintf(conn, "POST /aetherium/port/%d HTTP/1.1\r\nHost: agent\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n%s", port, early)
	must(r.t, err)
	head := bufio.NewReaderSize(conn, 16) // small: it must not swallow the stream
	for {
		line, err := head.ReadString('\n')
		must(r.t, err)
		if strings.HasPrefix(line, "HTTP/1.1") && !strings.Contains(line, "101") {
			r.t.Fatalf("answer %q", line)
		}
		if line == "\r\n" {
			break
		}
	}
	if head.Buffered() != 0 {
		r.t.Fatal("bytes before any were sent")
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		r.t.Fatal("not a unix connection")
	}
	return u
}
