package gateway_test

import (
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/gateway/pkg/gateway"
)

// volumeAnswer is what E2B's clients get of a volume.
type volumeAnswer struct {
	VolumeID string `json:"volumeID"`
	Name     string `json:"name"`
	Token    string `json:"token"`
	Domain   string `json:"domain"`
}

// entryAnswer is what they get of a file in it.
type entryAnswer struct {
	Name   string    `json:"name"`
	Type   string    `json:"type"`
	Path   string    `json:"path"`
	Size   int64     `json:"size"`
	Mode   uint32    `json:"mode"`
	UID    uint32    `json:"uid"`
	GID    uint32    `json:"gid"`
	ATime  time.Time `json:"atime"`
	MTime  time.Time `json:"mtime"`
	CTime  time.Time `json:"ctime"`
	Target string    `json:"target"`
}

// volumeLab is a lab that keeps volumes.
func volumeLab(t *testing.T, change ...func(*gateway.Config, *gateway.Deps)) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("files of other users need root")
	}
	l := newLab(t, change...)
	l.core.KeepVolumes(t.TempDir())
	return l
}

func (l *lab) volume(name string) volumeAnswer {
	l.t.Helper()
	return get[volumeAnswer](l, 201, req{method: "POST", path: l.e2b("/volumes"), key: l.user, body: map[string]string{"name": name}})
}

// content is a request for a volume's content.
func (l *lab) content(v volumeAnswer, method, what, query string, body any) req {
	return req{
		method: method, path: l.e2b("/volumecontent/" + v.VolumeID + "/" + what + "?" + query), key: "none", body: body,
		header: map[string]string{"Authorization": "Bearer " + v.Token},
	}
}

func TestE2BVolumes(t *testing.T) {
	t.Parallel()
	l := volumeLab(t)
	v := l.volume("data")
	_, port, _ := net.SplitHostPort(l.addr)
	if !domain.IsID(v.VolumeID) || v.Name != "data" || v.Token == "" || v.Domain != "aeth.localhost:"+port {
		t.Fatalf("%+v", v)
	}
	at := l.e2b("/volumes/" + v.VolumeID)
	if got := get[volumeAnswer](l, 200, req{method: "GET", path: at, key: l.user}); got != v {
		t.Errorf("%+v", got)
	}
	if list := get[[]volumeAnswer](l, 200, req{method: "GET", path: l.e2b("/volumes"), key: l.user}); len(list) != 1 || list[0] != (volumeAnswer{VolumeID: v.VolumeID, Name: "data"}) {
		t.Errorf("%+v", list)
	}
	l.fails(409, req{method: "POST", path: l.e2b("/volumes"), key: l.user, body: `{"name":"data"}`})
	for _, body := range []string{`{}`, `{"name":"a/b"}`, `{"name":"` + strings.Repeat("a", 100) + `"}`, `{`} {
		l.fails(400, req{method: "POST", path: l.e2b("/volumes"), key: l.user, body: body})
	}
	// Others see nothing of it, and who may only read not what opens it.
	if list := get[[]volumeAnswer](l, 200, req{method: "GET", path: l.e2b("/volumes"), key: l.other}); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	reader := l.ring.mint(l.project, "reader", domain.ScopeRead)
	l.fails(404, req{method: "GET", path: at, key: l.other})
	l.fails(404, req{method: "DELETE", path: at, key: l.other})
	l.fails(403, req{method: "GET", path: at, key: reader})
	l.fails(404, req{method: "GET", path: l.e2b("/volumes/data"), key: l.user})

	made := l.sandbox(`{"templateID":"base","volumeMounts":[{"name":"data","path":"/mnt/data"}]}`)
	info := get[sandboxDetail](l, 200, req{method: "GET", path: l.e2b("/sandboxes/" + made.SandboxID), key: l.user})
	if len(info.VolumeMounts) != 1 || info.VolumeMounts[0]["name"] != "data" || info.VolumeMounts[0]["path"] != "/mnt/data" {
		t.Errorf("%+v", info)
	}
	l.fails(409, req{method: "DELETE", path: at, key: l.user})
	l.want(204, req{method: "DELETE", path: l.e2b("/sandboxes/" + made.SandboxID), key: l.user})
	l.want(204, req{method: "DELETE", path: at, key: l.user})
	l.fails(404, req{method: "DELETE", path: at, key: l.user})
	l.fails(401, l.content(v, "GET", "path", "path=/", nil))
}

func TestE2BVolumeContent(t *testing.T) {
	t.Parallel()
	l := volumeLab(t)
	v := l.volume("data")
	do := func(status int, method, what, query string, body any) entryAnswer {
		t.Helper()
		return get[entryAnswer](l, status, l.content(v, method, what, query, body))
	}
	e := do(201, "PUT", "file", "path=/a.txt", "hello")
	if e.Name != "a.txt" || e.Path != "/a.txt" || e.Type != "file" || e.Size != 5 || e.Mode != 0o644 || e.UID != 1000 || e.MTime.IsZero() || e.CTime.IsZero() || e.ATime.IsZero() {
		t.Errorf("%+v", e)
	}
	if _, text := l.want(200, l.content(v, "GET", "file", "path=a.txt", nil)); string(text) != "hello" {
		t.Errorf("%q", text)
	}
	part := l.content(v, "GET", "file", "path=a.txt", nil)
	part.header["Range"] = "bytes=1-2"
	if _, text := l.want(206, part); string(text) != "el" {
		t.Errorf("%q", text)
	}
	if e := do(201, "PUT", "file", "path=a.txt&uid=5&gid=6&mode=384", ""); e.Size != 0 || e.Mode != 0o600 || e.UID != 5 || e.GID != 6 {
		t.Errorf("%+v", e)
	}
	if e := do(200, "PATCH", "path", "path=a.txt", `{"mode":420,"uid":7}`); e.Mode != 0o644 || e.UID != 7 || e.GID != 6 {
		t.Errorf("%+v", e)
	}
	l.fails(404, l.content(v, "PUT", "file", "path=d/e/f", "x"))
	do(201, "PUT", "file", "path=d/e/f&force=true", "x")
	l.fails(409, l.content(v, "POST", "dir", "path=d", nil))
	if e := do(201, "POST", "dir", "path=d&force=true", nil); e.Type != "directory" || e.Path != "/d" {
		t.Errorf("%+v", e)
	}
	list := func(query string) (paths []string) {
		t.Helper()
		for _, e := range get[[]entryAnswer](l, 200, l.content(v, "GET", "dir", query, nil)) {
			paths = append(paths, e.Path)
		}
		return paths
	}
	if got := strings.Join(list("path="), " "); got != "/a.txt /d" {
		t.Error(got)
	}
	if got := strings.Join(list("path=/&depth=3"), " "); got != "/a.txt /d /d/e /d/e/f" {
		t.Error(got)
	}
	if e := do(200, "GET", "path", "path="+url.QueryEscape("../../d/./e"), nil); e.Path != "/d/e" {
		t.Errorf("%+v", e)
	}
	for query, status := range map[string]int{
		"path=none": 404, "path=a.txt/x": 404, "path=" + strings.Repeat("a", 300): 400, "path=%00": 400, "path=" + strings.Repeat("a/", 3000): 400,
	} {
		l.fails(status, l.content(v, "GET", "path", query, nil))
	}
	for _, query := range []string{"path=/&depth=0", "path=/&depth=-1", "path=/&depth=x", "path=/&depth=65"} {
		l.fails(400, l.content(v, "GET", "dir", query, nil))
	}
	for _, query := range []string{"path=/", "path=", "path=d", "path=x&mode=4096", "path=x&mode=-1", "path=x&uid=65536", "path=x&force=maybe"} {
		l.fails(400, l.content(v, "PUT", "file", query, "x"))
	}
	l.fails(413, l.content(v, "PUT", "file", "path=big", strings.Repeat("x", 2<<20)))
	l.want(204, l.content(v, "DELETE", "path", "path=d", nil))
	l.fails(404, l.content(v, "DELETE", "path", "path=d", nil))
	l.fails(400, l.content(v, "DELETE", "path", "path=/", nil))
	if got := strings.Join(list("path="), " "); got != "/a.txt" {
		t.Error(got)
	}
}

// A volume is open to who shows its own token, and to no key.
func TestE2BVolumeTokens(t *testing.T) {
	t.Parallel()
	l := volumeLab(t)
	v, other := l.volume("data"), l.volume("other")
	for name, token := range map[string]string{
		"another's": other.Token, "a key": l.admin, "nothing": "", "a part": v.Token[1:], "more": v.Token + "a",
	} {
		for method, what := range map[string]string{"GET": "file", "PUT": "file", "POST": "dir", "PATCH": "path", "DELETE": "path"} {
			q := l.content(v, method, what, "path=a", nil)
			q.header["Authorization"] = "Bearer " + token
			if f := l.fails(401, q); f.ErrorCode != "unauthenticated" {
				t.Errorf("%s: %+v", name, f)
			}
		}
	}
	l.fails(401, req{method: "GET", path: l.e2b("/volumecontent/" + v.VolumeID + "/dir?path=/"), key: l.user})
	l.fails(401, l.content(volumeAnswer{VolumeID: strings.Repeat("a", 20), Token: v.Token}, "GET", "dir", "path=/", nil))
}
