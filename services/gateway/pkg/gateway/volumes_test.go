package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
)

func (l *lab) makeVolume(name string) wire.Volume {
	l.t.Helper()
	return get[wire.Volume](l, 201, req{method: "POST", path: "/volumes", key: l.user, body: wire.CreateVolume{Name: name}})
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	l := volumeLab(t)
	v := get[wire.Volume](l, 201, req{method: "POST", path: "/volumes", key: l.user, body: wire.CreateVolume{Name: "data", DiskBytes: 64 << 20}})
	if !domain.IsID(v.ID) || v.Name != "data" || v.DiskBytes != 64<<20 || v.CreatedAt.IsZero() {
		t.Fatalf("%+v", v)
	}
	for _, ref := range []string{v.ID, "data"} {
		if got := get[wire.Volume](l, 200, req{method: "GET", path: "/volumes/" + ref, key: l.user}); got != v {
			t.Errorf("%+v", got)
		}
	}
	l.problem(409, errors.AlreadyExists, req{method: "POST", path: "/volumes", body: wire.CreateVolume{Name: "data"}})
	for _, body := range []string{
		`{}`, `{"name":""}`, `{"name":"a/b"}`, `{"name":"-a"}`, `{"name":"` + v.ID + `"}`, `{"name":"` + strings.Repeat("a", 64) + `"}`,
		`{"name":"x","disk_bytes":-1}`, `{"name":"x","disk_bytes":1e15}`, `{"name":"x","more":1}`,
	} {
		l.problem(400, errors.InvalidArgument, req{method: "POST", path: "/volumes", body: body})
	}
	l.problem(400, errors.InvalidArgument, req{method: "GET", path: "/volumes/a%2Fb"})
	// Pages.
	for i := range 4 {
		l.makeVolume(fmt.Sprint("more-", i))
	}
	var names []string
	for cursor := ""; ; {
		page := get[wire.List[wire.Volume]](l, 200, req{method: "GET", path: "/volumes?limit=2&cursor=" + cursor, key: l.user})
		for _, v := range page.Items {
			names = append(names, v.Name)
		}
		if len(page.Items) > 2 {
			t.Fatalf("%+v", page)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
	}
	if got := strings.Join(names, " "); got != "data more-0 more-1 more-2 more-3" {
		t.Error(got)
	}
	// A repeated request makes one.
	once := req{method: "POST", path: "/volumes", body: wire.CreateVolume{Name: "once"}, header: key("k")}
	first := get[wire.Volume](l, 201, once)
	if again := get[wire.Volume](l, 201, once); again != first {
		t.Errorf("%+v and %+v", first, again)
	}
	// Another project sees nothing of it, and may use its name.
	if list := get[wire.List[wire.Volume]](l, 200, req{method: "GET", path: "/volumes", key: l.other}); len(list.Items) != 0 {
		t.Errorf("%+v", list)
	}
	for _, ref := range []string{v.ID, "data"} {
		l.problem(404, errors.NotFound, req{method: "GET", path: "/volumes/" + ref, key: l.other})
		l.problem(404, errors.NotFound, req{method: "DELETE", path: "/volumes/" + ref, key: l.other})
		l.problem(404, errors.NotFound, req{method: "POST", path: "/vms", key: l.other, body: wire.CreateVM{Volumes: []wire.VolumeMount{{Volume: ref, Path: "/mnt/data"}}}})
	}
	get[wire.Volume](l, 201, req{method: "POST", path: "/volumes", key: l.other, body: wire.CreateVolume{Name: "data"}})
}

func TestVolumesOfVMs(t *testing.T) {
	t.Parallel()
	l := volumeLab(t)
	v := l.makeVolume("data")
	l.makeVolume("more")
	create := func(volumes ...wire.VolumeMount) req {
		return req{method: "POST", path: "/vms", key: l.user, body: wire.CreateVM{Volumes: volumes}}
	}
	vm := get[wire.VM](l, 201, create(wire.VolumeMount{Volume: v.ID, Path: "/mnt/data"}, wire.VolumeMount{Volume: "more", Path: "/srv/more", ReadOnly: true}))
	for _, got := range []wire.VM{vm, get[wire.VM](l, 200, req{method: "GET", path: "/vms/" + vm.ID})} {
		if len(got.Volumes) != 2 || got.Volumes[0] != (wire.VMVolume{VolumeID: v.ID, VolumeMount: wire.VolumeMount{Volume: "data", Path: "/mnt/data"}}) ||
			got.Volumes[1].Volume != "more" || got.Volumes[1].Path != "/srv/more" || !got.Volumes[1].ReadOnly {
			t.Errorf("%+v", got.Volumes)
		}
	}
	if p := l.problem(404, errors.NotFound, create(wire.VolumeMount{Volume: "none", Path: "/mnt/data"})); p.Field != "volumes" || !strings.Contains(p.Detail, `"none"`) {
		t.Errorf("%+v", p)
	}
	at := func(paths ...string) (out []wire.VolumeMount) {
		for _, p := range paths {
			out = append(out, wire.VolumeMount{Volume: "data", Path: p})
		}
		return out
	}
	many := make([]string, domain.MaxMounts+1)
	for i := range many {
		many[i] = fmt.Sprint("/mnt/", i)
	}
	for _, bad := range [][]wire.VolumeMount{
		at(""), at("mnt/data"), at("/"), at("/etc"), at("/usr/local"), at("/proc/self"), at("/mnt/../etc"), at("/mnt/data/"), at("/mnt/a\nb"),
		at("/mnt/" + strings.Repeat("a", 512)), at("/mnt/a", "/mnt/a"), at("/mnt/a", "/mnt/a/b"), at(many...), {{Volume: "a/b", Path: "/mnt/a"}}, {{Path: "/mnt/a"}},
	} {
		if p := l.problem(400, errors.InvalidArgument, create(bad...)); !strings.Contains(fmt.Sprint(p.Field, p.Errors), "volumes") {
			t.Errorf("%+v: %+v", bad, p)
		}
	}
	// A volume that a VM has stays.
	l.problem(409, errors.Conflict, req{method: "DELETE", path: "/volumes/data", key: l.user})
	l.want(200, req{method: "DELETE", path: "/vms/" + vm.ID})
	l.want(204, req{method: "DELETE", path: "/volumes/data", key: l.user})
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/volumes/data", key: l.user})
}

// A request that asks for no volumes is not one that says nothing of them.
func TestNoVolumesAreAskedFor(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.want(201, req{method: "POST", path: "/vms", body: `{}`, header: key("k")})
	l.problem(422, errors.IdempotencyMismatch, req{method: "POST", path: "/vms", body: `{"volumes":[]}`, header: key("k")})
}

// Where no driver can give VMs volumes, there are none.
func TestVolumesThatCannotBe(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.problem(422, errors.Unsupported, req{method: "POST", path: "/volumes", body: wire.CreateVolume{Name: "data"}})
}

// What is done to a volume is recorded under its ID, whatever it was called
// by; what was not found, as it was asked for.
func TestVolumesInTheAuditLog(t *testing.T) {
	t.Parallel()
	l := volumeLab(t, recorded(t))
	v := l.makeVolume("data")
	l.problem(404, errors.NotFound, req{method: "DELETE", path: "/volumes/data", key: l.other})
	l.want(204, req{method: "DELETE", path: "/volumes/data", key: l.user})
	var got []string
	for _, r := range l.records("") {
		got = append(got, fmt.Sprint(r.Operation, " ", r.SubjectKind, " ", r.SubjectID, " ", r.Actor, " ", r.Status))
	}
	want := []string{
		"create-volume volume " + v.ID + " alice 201",
		"delete-volume volume data mallory 404",
		"delete-volume volume " + v.ID + " alice 204",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestVolumeFiles(t *testing.T) {
	t.Parallel()
	l := volumeLab(t, recorded(t))
	v := l.makeVolume("data")
	at := func(method, what, query string, body any) req {
		return req{method: method, path: "/volumes/data/files" + what + "?" + query, key: l.user, body: body}
	}
	f := get[wire.FileInfo](l, 200, at("PUT", "", "path=/d/e/a.txt", "hello"))
	if f.Name != "a.txt" || f.Path != "/d/e/a.txt" || f.Type != "file" || f.SizeBytes != 5 || f.Mode != "0644" || f.Owner != "1000" || f.Group != "1000" || f.ModifiedAt.IsZero() {
		t.Errorf("%+v", f)
	}
	if got := get[wire.FileInfo](l, 200, at("GET", "/stat", "path=d/e/a.txt", nil)); got.SizeBytes != 5 || got.Path != f.Path {
		t.Errorf("%+v", got)
	}
	resp, text := l.want(200, at("GET", "", "path=/d/e/a.txt", nil))
	if string(text) != "hello" || resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Content-Security-Policy") != "sandbox" {
		t.Errorf("%q, %v", text, resp.Header)
	}
	tag := resp.Header.Get("ETag")
	read := func(status int, header, value, want string) {
		t.Helper()
		q := at("GET", "", "path=/d/e/a.txt", nil)
		q.header = map[string]string{"Range": "bytes=1-2"}
		q.header[header] = value
		if _, text := l.want(status, q); string(text) != want {
			t.Errorf("%s %s: %q", header, value, text)
		}
	}
	read(206, "Range", "bytes=1-2", "el")
	read(206, "If-Range", tag, "el")
	read(200, "If-Range", `"other"`, "hello")
	read(304, "If-None-Match", tag, "")
	outside := at("GET", "", "path=/d/e/a.txt", nil)
	outside.header = map[string]string{"Range": "bytes=9-"}
	l.problem(416, errors.OutOfRange, outside)
	for path, kind := range map[string]string{"d": "dir", "d/e/a.txt": "file"} {
		if resp, _ := l.want(200, at("HEAD", "", "path="+path, nil)); resp.Header.Get(wire.HeaderFileType) != kind || (kind == "file") != (resp.ContentLength == 5) {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
	if got := get[wire.FileInfo](l, 200, at("PUT", "", "path=d/e/a.txt&mode=0600", "")); got.Mode != "0600" || got.SizeBytes != 0 {
		t.Errorf("%+v", got)
	}
	for range 2 { // one that is there is success
		if got := get[wire.FileInfo](l, 200, at("POST", "/mkdir", "", wire.MakeVolumeDir{Path: "x/y", Mode: "0700"})); got.Type != "dir" || got.Path != "/x/y" || got.Mode != "0700" {
			t.Errorf("%+v", got)
		}
	}
	list := func(query string) string {
		t.Helper()
		var paths []string
		for _, f := range get[wire.List[wire.FileInfo]](l, 200, at("GET", "/list", query, nil)).Items {
			paths = append(paths, f.Path)
		}
		return strings.Join(paths, " ")
	}
	if got := list("path=/"); got != "/d /x" {
		t.Error(got)
	}
	if got := list("path=/&depth=3"); got != "/d /d/e /d/e/a.txt /x /x/y" {
		t.Error(got)
	}
	l.want(204, at("DELETE", "", "path=d", nil))
	l.problem(404, errors.NotFound, at("GET", "", "path=d/e/a.txt", nil))
	if got := list("path=../.."); got != "/x" {
		t.Error(got)
	}

	// What cannot be.
	for _, q := range []req{
		at("DELETE", "", "path=/", nil), at("PUT", "", "path=/", "x"), at("PUT", "", "path=x", "x"), at("PUT", "", "path=a&mode=9", "x"), at("PUT", "", "", "x"),
		at("GET", "", "path=x", nil), at("GET", "/list", "path=/&depth=0", nil), at("GET", "/list", "path=/&depth=65", nil), at("GET", "/stat", "path=%00", nil),
		at("GET", "/stat", "path="+strings.Repeat("a/", 2048), nil), at("POST", "/mkdir", "", `{}`), at("POST", "/mkdir", "", `{"path":"a","user":"root"}`),
	} {
		l.problem(400, errors.InvalidArgument, q)
	}
	l.problem(413, errors.TooLarge, at("PUT", "", "path=big", strings.Repeat("x", 2<<20)))
	// Another project sees no volume, and who may only read changes nothing.
	reader := l.ring.mint(l.project, "reader", domain.ScopeRead)
	for _, q := range []req{
		at("GET", "", "path=a", nil), at("PUT", "", "path=a", "x"), at("DELETE", "", "path=x", nil), at("GET", "/stat", "path=x", nil),
		at("GET", "/list", "path=/", nil), at("POST", "/mkdir", "", wire.MakeVolumeDir{Path: "z"}),
	} {
		q.key = l.other
		l.problem(404, errors.NotFound, q)
		if q.key = reader; q.method != "GET" {
			l.problem(403, errors.PermissionDenied, q)
		}
	}
	if got := list("path=/"); got != "/x" {
		t.Error(got)
	}
	// Every change of what is in a volume is recorded, under its ID.
	done := map[string]int{}
	for _, r := range l.records("result=done&subject=" + v.ID) {
		done[r.Operation]++
		if r.SubjectKind != "volume" || r.Actor != "alice" {
			t.Errorf("%+v", r)
		}
	}
	if want := (map[string]int{"create-volume": 1, "write-volume-file": 2, "make-volume-dir": 2, "remove-volume-file": 1}); fmt.Sprint(done) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", done, want)
	}
}
