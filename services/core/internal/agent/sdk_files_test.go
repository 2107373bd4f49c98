package agent_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "github.com/aetherium/aetherium/services/core/pkg/guest/guestpb/aetherium/guest/v1"
	"github.com/aetherium/aetherium/services/core/pkg/guest/signature"
)

// fs calls a filesystem method as the default user.
func (r *rig) fs(method, body string, headers ...string) (int, map[string]any) {
	r.t.Helper()
	return r.rpc("/filesystem.Filesystem/"+method, body, headers...)
}

// A slip must not empty a home.
func TestHomeAndRootStay(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	must(t, os.WriteFile(filepath.Join(r.home, "kept"), nil, 0o644))
	for _, path := range []string{".", "", "/", r.home, r.home + "/", r.home + "/./"} {
		status, body := r.fs("Remove", fmt.Sprintf(`{"path":%q}`, path))
		if status != http.StatusBadRequest {
			t.Errorf("%q: %d %v", path, status, body)
		}
	}
	if _, err := os.Stat(filepath.Join(r.home, "kept")); err != nil {
		t.Error(err)
	}
}

func TestSDKFilesystem(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	status, body := r.fs("MakeDir", `{"path":"a/b"}`) // relative to the home
	entry, _ := body["entry"].(map[string]any)
	if status != 200 || entry["path"] != r.home+"/a/b" || entry["type"] != "FILE_TYPE_DIRECTORY" || entry["owner"] != "user" || entry["group"] != "user" {
		t.Errorf("make: %d %v", status, body)
	}
	if _, body := r.fs("MakeDir", `{"path":"a/b"}`); body["code"] != "already_exists" {
		t.Errorf("make again: %v", body)
	}
	must(t, os.WriteFile(r.home+"/a/file", []byte("12345"), 0o640))
	must(t, os.Symlink("file", r.home+"/a/link"))
	must(t, os.Symlink("nowhere", r.home+"/a/dangling"))

	status, body = r.fs("Stat", `{"path":"a/link"}`)
	entry, _ = body["entry"].(map[string]any)
	if status != 200 || entry["type"] != "FILE_TYPE_FILE" || entry["symlinkTarget"] != r.home+"/a/file" {
		t.Errorf("stat of a link: %d %v", status, body)
	}
	_, body = r.fs("Stat", `{"path":"`+r.home+`/a/file"}`)
	entry, _ = body["entry"].(map[string]any)
	if entry["size"] != "5" || entry["mode"] != float64(0o640) || entry["permissions"] != "-rw-r-----" || entry["name"] != "file" || entry["owner"] != "root" {
		t.Errorf("stat: %v", entry)
	}
	if at, err := time.Parse(time.RFC3339, fmt.Sprint(entry["modifiedTime"])); err != nil || time.Since(at) > time.Hour {
		t.Errorf("modified at %v: %v", entry["modifiedTime"], err)
	}
	if status, body := r.fs("Stat", `{"path":"a/none"}`); status != 404 || body["code"] != "not_found" {
		t.Errorf("stat of nothing: %d %v", status, body)
	}

	names := func(body map[string]any) (list []string) {
		entries, _ := body["entries"].([]any)
		for _, e := range entries {
			path, _ := filepath.Rel(r.home, e.(map[string]any)["path"].(string))
			list = append(list, path)
		}
		return list
	}
	r.sh("user", "mkdir -p a/b/c/d")
	for depth, want := range map[string]string{
		`{"path":""}`: "[a]", `{"path":"a","depth":1}`: "[a/b a/dangling a/file a/link]",
		`{"path":"","depth":3}`: "[a a/b a/b/c a/dangling a/file a/link]",
	} {
		if status, body := r.fs("ListDir", depth); status != 200 || fmt.Sprint(names(body)) != want {
			t.Errorf("list %s: %d %v, want %s", depth, status, names(body), want)
		}
	}
	for path, code := range map[string]string{"a/file": "invalid_argument", "a/none": "not_found"} {
		if _, body := r.fs("ListDir", `{"path":"`+path+`"}`); body["code"] != code {
			t.Errorf("list %s: %v", path, body)
		}
	}
	status, body = r.fs("Move", `{"source":"a/b","destination":"x/y/z"}`)
	entry, _ = body["entry"].(map[string]any)
	if status != 200 || entry["path"] != r.home+"/x/y/z" {
		t.Errorf("move: %d %v", status, body)
	}
	if _, body := r.fs("Move", `{"source":"a/b","destination":"q"}`); body["code"] != "not_found" {
		t.Errorf("move again: %v", body)
	}
	for range 2 {
		if status, body := r.fs("Remove", `{"path":"x"}`); status != 200 {
			t.Errorf("remove: %d %v", status, body)
		}
	}
	if _, err := os.Stat(r.home + "/x"); !os.IsNotExist(err) {
		t.Error("x is still there")
	}
	if _, body := r.fs("Stat", `{"path":"`+strings.Repeat("x", 5000)+`"}`); body["code"] != "invalid_argument" {
		t.Errorf("a long path: %v", body)
	}
	if _, body := r.fs("Stat", `{"path":"a"}`, "Authorization", basic("nobody-here")); body["code"] != "unauthenticated" {
		t.Errorf("an unknown user: %v", body)
	}
}

// The API must not lend the agent's rights.
func TestUsersRightsCount(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	secret := filepath.Join(r.home, "root-only")
	must(t, os.Mkdir(secret, 0o700))
	must(t, os.WriteFile(secret+"/key", []byte("secret"), 0o600))
	must(t, os.WriteFile(r.home+"/roots", []byte("secret"), 0o600))
	must(t, os.Symlink(secret+"/key", r.home+"/trap"))
	must(t, os.WriteFile(r.home+"/group", []byte("shared"), 0o640))
	must(t, os.Chown(r.home+"/group", 0, 2000))
	must(t, os.Mkdir(r.home+"/full", 0o755))

	get := func(path, user string) (int, string) {
		status, _, body := call(t, r.host, "GET", "http://agent/aetherium/file?"+url.Values{"path": {path}, "username": {user}}.Encode(), nil)
		return status, body
	}
	for _, path := range []string{"roots", "trap", "root-only/key", "/proc/1/environ", "/etc/shadow"} {
		if status, body := get(path, "user"); status != 403 {
			t.Errorf("user reads %s: %d %q", path, status, body)
		}
		status, _, body := call(t, http.DefaultClient, "GET", r.sdk+"/files?username=user&path="+path, nil)
		if status != 403 {
			t.Errorf("user reads %s by /files: %d %q", path, status, body)
		}
	}
	if status, body := get("group", "user"); status != 200 || body != "shared" {
		t.Errorf("a supplementary group does not count: %d %q", status, body)
	}
	if status, _ := get(r.home+"/group", "other"); status != 403 {
		t.Errorf("another user reads it: %d", status)
	}
	if status, body := get(r.home+"/roots", "root"); status != 200 || body != "secret" {
		t.Errorf("root reads: %d %q", status, body)
	}
	for method, body := range map[string]string{
		"ListDir": `{"path":"root-only"}`, "MakeDir": `{"path":"/usr/mine"}`, "Remove": `{"path":"root-only"}`,
		"Move": `{"source":"root-only/key","destination":"stolen"}`, "CreateWatcher": `{"path":"root-only"}`,
	} {
		if _, body := r.fs(method, body); body["code"] != "permission_denied" {
			t.Errorf("%s: %v", method, body)
		}
	}
	for _, tc := range []struct{ method, url string }{
		{"PUT", "/aetherium/file?username=user&path=" + url.QueryEscape(r.home+"/roots")},
		{"PUT", "/aetherium/file?username=user&path=/usr/planted"},
		{"GET", "/aetherium/tar?username=user&path=root-only"},
		{"PUT", "/aetherium/tar?username=user&path=/usr/planted"},
	} {
		if status, _, body := call(t, r.host, tc.method, "http://agent"+tc.url, strings.NewReader("x")); status != 403 {
			t.Errorf("%s %s: %d %s", tc.method, tc.url, status, body)
		}
	}
	if b, err := os.ReadFile(r.home + "/roots"); string(b) != "secret" {
		t.Errorf("root's file is now %q (%v)", b, err)
	}
	// And the identity does not stick to the agent's threads.
	for range 50 {
		_, _ = get("roots", "user")
		if status, body := get(r.home+"/roots", "root"); status != 200 {
			t.Fatalf("root reads: %d %q", status, body)
		}
	}
}

// An upload of which a part is missing leaves no new file, and an old one as it
// was. A whole one is written in place, which needs no right to the directory.
func TestSDKHalfUploads(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	content := bytes.Repeat([]byte("content "), 128<<10)
	var zipped, form bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write(content)
	must(t, zip.Close())
	w := multipart.NewWriter(&form)
	part, err := w.CreateFormFile("file", "any")
	must(t, err)
	_, _ = part.Write(content)
	must(t, w.Close())
	post := func(kind string, body []byte, headers ...string) int {
		t.Helper()
		status, _, _ := call(t, http.DefaultClient, "POST", r.sdk+"/files?username=user&path=dir/file", bytes.NewReader(body), append([]string{"Content-Type", kind}, headers...)...)
		return status
	}
	halves := func(want int) {
		t.Helper()
		if status := post("application/octet-stream", zipped.Bytes()[:zipped.Len()/2], "Content-Encoding", "gzip"); status != want {
			t.Errorf("half a body: %d", status)
		}
		if status := post(w.FormDataContentType(), form.Bytes()[:form.Len()/2]); status != want {
			t.Errorf("half a form: %d", status)
		}
	}
	dir := filepath.Join(r.home, "dir")
	left := func() (names []string) {
		t.Helper()
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	halves(400)
	if names := left(); len(names) > 0 {
		t.Errorf("half of a new file left %v", names)
	}
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("as it was, which is longer"), 0o640))
	must(t, os.Chown(file, 1000, 2000))
	was, err := os.Stat(file)
	must(t, err)
	must(t, os.Chown(dir, 0, 0)) // the user may write the file alone
	halves(400)
	if got, err := os.ReadFile(file); err != nil || string(got) != "as it was, which is longer" {
		t.Errorf("half of new content made it %d bytes: %v", len(got), err)
	}
	if status := post(w.FormDataContentType(), form.Bytes()); status != 200 {
		t.Errorf("whole: %d", status)
	}
	got, err := os.ReadFile(file)
	must(t, err)
	is, err := os.Stat(file)
	must(t, err)
	if !bytes.Equal(got, content) || !os.SameFile(was, is) || is.Mode() != was.Mode() {
		t.Errorf("whole: %d bytes, the same file: %v, mode %v", len(got), os.SameFile(was, is), is.Mode())
	}
	if names := left(); len(names) != 1 {
		t.Errorf("left: %v", names)
	}
}

func TestSDKFiles(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	post := func(query url.Values, kind string, body []byte, headers ...string) (int, string) {
		status, _, text := call(t, http.DefaultClient, "POST", r.sdk+"/files?"+query.Encode(), bytes.NewReader(body),
			append([]string{"Content-Type", kind}, headers...)...)
		return status, text
	}
	form := func(files map[string]string) (string, []byte) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for _, name := range []string{"one/a.txt", "two/b.txt", "ignored"} {
			content, ok := files[name]
			if !ok {
				continue
			}
			h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="file"; filename="%s"`, name)}}
			part, err := w.CreatePart(h)
			must(t, err)
			_, _ = part.Write([]byte(content))
		}
		must(t, w.Close())
		return w.FormDataContentType(), b.Bytes()
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(r.home, name))
		must(t, err)
		return string(b)
	}

	kind, body := form(map[string]string{"one/a.txt": "A", "two/b.txt": "B"})
	status, text := post(url.Values{}, kind, body)
	want := fmt.Sprintf(`[{"path":"%[1]s/one/a.txt","name":"a.txt","type":"file"},{"path":"%[1]s/two/b.txt","name":"b.txt","type":"file"}]`+"\n", r.home)
	if status != 200 || text != want || read("one/a.txt") != "A" || read("two/b.txt") != "B" {
		t.Errorf("several files: %d %s", status, text)
	}
	kind, body = form(map[string]string{"ignored": "C"})
	if status, text := post(url.Values{"path": {"wins"}}, kind, body); status != 200 || read("wins") != "C" {
		t.Errorf("the query's path: %d %s", status, text)
	}
	var zipped bytes.Buffer
	zip := gzip.NewWriter(&zipped)
	_, _ = zip.Write([]byte("zipped content"))
	must(t, zip.Close())
	status, text = post(url.Values{"path": {"z"}, "username": {"root"}}, "application/octet-stream", zipped.Bytes(), "Content-Encoding", "gzip")
	if info, err := os.Stat("/root/z"); err == nil && status == 200 {
		_ = info
		must(t, os.Remove("/root/z"))
	} else {
		t.Errorf("root's home: %d %s %v", status, text, err)
	}
	for name, tc := range map[string]struct {
		query  url.Values
		kind   string
		status int
	}{
		"no path":      {url.Values{}, "application/octet-stream", 400},
		"a directory":  {url.Values{"path": {"one"}}, "application/octet-stream", 400},
		"content type": {url.Values{"path": {"x"}}, "text/plain", 400},
		"unknown user": {url.Values{"path": {"x"}, "username": {"nobody-here"}}, "application/octet-stream", 401},
		"no boundary":  {url.Values{"path": {"x"}}, "multipart/form-data", 400},
	} {
		status, text := post(tc.query, tc.kind, []byte("x"))
		var e struct {
			Code    int
			Message string
		}
		if err := json.Unmarshal([]byte(text), &e); status != tc.status || err != nil || e.Code != tc.status || e.Message == "" {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}

	get := func(path string, headers ...string) (int, http.Header, string) {
		return call(t, &http.Client{Transport: &http.Transport{DisableCompression: true}}, "GET", r.sdk+"/files?path="+path, nil, headers...)
	}
	must(t, os.WriteFile(r.home+"/data", []byte(strings.Repeat("0123456789", 1000)), 0o644))
	if status, h, body := get("data"); status != 200 || len(body) != 10000 || h.Get("Content-Length") != "10000" {
		t.Errorf("get: %d %v", status, h)
	}
	if status, h, body := get("data", "Range", "bytes=5-14", "Accept-Encoding", "gzip"); status != 206 || body != "5678901234" || h.Get("Content-Encoding") != "" {
		t.Errorf("range: %d %q", status, body)
	}
	status, h, body2 := get("data", "Accept-Encoding", "gzip, br")
	unzip, err := gzip.NewReader(strings.NewReader(body2))
	must(t, err)
	plain, err := io.ReadAll(unzip)
	if status != 200 || h.Get("Content-Encoding") != "gzip" || len(plain) != 10000 || err != nil {
		t.Errorf("gzip: %d %v %d %v", status, h, len(plain), err)
	}
	for path, want := range map[string]int{"none": 404, "one": 400, "/dev/zero": 400} {
		if status, _, body := get(path); status != want || !strings.Contains(body, fmt.Sprintf(`"code":%d`, want)) {
			t.Errorf("get %s: %d %s", path, status, body)
		}
	}
	if status, _, _ := get("data", "Accept-Encoding", "br, identity;q=0"); status != 406 {
		t.Errorf("no acceptable encoding: %d", status)
	}
	if status, _, body := get("/proc/self/status"); status != 200 || !strings.Contains(body, "Name:") {
		t.Errorf("a file that says it is empty: %d %q", status, body)
	}
}

func TestSDKMetadata(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	put := func(headers ...string) (int, string) {
		status, _, text := call(t, http.DefaultClient, "POST", r.sdk+"/files?path=m", strings.NewReader("x"),
			append([]string{"Content-Type", "application/octet-stream"}, headers...)...)
		return status, text
	}
	status, text := put("X-Metadata-Author", "me", "X-Metadata-Run-Id", "7")
	if status == 422 {
		t.Skip("the file system under /tmp keeps no extended attributes")
	}
	if status != 200 || !strings.Contains(text, `"metadata":{"author":"me","run-id":"7"}`) {
		t.Errorf("put: %d %s", status, text)
	}
	meta := func() string {
		_, body := r.fs("Stat", `{"path":"m"}`)
		entry, _ := body["entry"].(map[string]any)
		return fmt.Sprint(entry["metadata"])
	}
	if got := meta(); got != "map[author:me run-id:7]" {
		t.Errorf("stat: %s", got)
	}
	put("X-Metadata-Author", "you")
	if got := meta(); got != "map[author:you]" {
		t.Errorf("after another put: %s", got)
	}
}

func TestSDKSignatures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const token = "s3cret"
	_, err := r.machine.Configure(r.ctx, connect.NewRequest(&guestv1.ConfigureRequest{AccessToken: token, DefaultUser: "root"}))
	must(t, err)
	path := r.home + "/signed"
	must(t, os.WriteFile(path, []byte("content"), 0o644))
	soon, past := fmt.Sprint(time.Now().Unix()+1000), fmt.Sprint(time.Now().Unix()-1000)
	for name, tc := range map[string]struct {
		method string
		query  url.Values
		status int
		text   string
	}{
		"read":            {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "", token, "")}}, 200, "content"},
		"read in time":    {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "", token, soon)}, "signature_expiration": {soon}}, 200, "content"},
		"read as root":    {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "root", token, "")}, "username": {"root"}}, 200, "content"},
		"expired":         {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "", token, past)}, "signature_expiration": {past}}, 401, "signature is already expired"},
		"other user":      {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "", token, "")}, "username": {"root"}}, 401, "does not fit"},
		"other operation": {"POST", url.Values{"signature": {signature.Make(path, signature.Read, "", token, "")}}, 401, "does not fit"},
		"other path":      {"GET", url.Values{"signature": {signature.Make("/etc/shadow", signature.Read, "", token, "")}}, 401, "does not fit"},
		"longer life":     {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "", token, past)}, "signature_expiration": {soon}}, 401, "does not fit"},
		"no end":          {"GET", url.Values{"signature": {signature.Make(path, signature.Read, "", token, past)}}, 401, "does not fit"},
		"none":            {"GET", url.Values{}, 401, "missing"},
		"write":           {"POST", url.Values{"signature": {signature.Make(path+"2", signature.Write, "", token, "")}, "path": {path + "2"}}, 200, "signed2"},
	} {
		if tc.query.Get("path") == "" {
			tc.query.Set("path", path)
		}
		status, _, body := call(t, http.DefaultClient, tc.method, r.sdk+"/files?"+tc.query.Encode(), strings.NewReader("new"), "Content-Type", "application/octet-stream")
		if status != tc.status || !strings.Contains(body, tc.text) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
}

// watched polls a watcher and returns what it told, as "type name".
func (r *rig) watched(id string) (list []string) {
	r.t.Helper()
	_, body := r.fs("GetWatcherEvents", `{"watcherId":"`+id+`"}`)
	events, _ := body["events"].([]any)
	for _, e := range events {
		event, _ := e.(map[string]any)
		list = append(list, strings.TrimPrefix(fmt.Sprint(event["type"]), "EVENT_TYPE_")+" "+fmt.Sprint(event["name"]))
	}
	return list
}

func TestSDKWatch(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	root := []string{"Authorization", basic("root")}
	dir := r.home + "/watched"
	must(t, os.MkdirAll(dir+"/deep/er", 0o755))
	create := func(recursive bool) string {
		status, body := r.fs("CreateWatcher", fmt.Sprintf(`{"path":"%s","recursive":%v}`, dir, recursive), root...)
		if status != 200 {
			t.Fatalf("create: %d %v", status, body)
		}
		return fmt.Sprint(body["watcherId"])
	}
	flat, deep := create(false), create(true)
	must(t, os.WriteFile(dir+"/f", []byte("x"), 0o644))
	must(t, os.WriteFile(dir+"/deep/er/g", []byte("x"), 0o644))
	if got := fmt.Sprint(r.watched(flat)); got != "[CREATE f WRITE f]" {
		t.Errorf("flat: %s", got)
	}
	if got := fmt.Sprint(r.watched(deep)); got != "[CREATE f WRITE f CREATE deep/er/g WRITE deep/er/g]" {
		t.Errorf("deep: %s", got)
	}
	if got := r.watched(deep); got != nil {
		t.Errorf("told twice: %v", got)
	}
	must(t, os.Chmod(dir+"/f", 0o600))
	must(t, os.Rename(dir+"/f", dir+"/h"))
	must(t, os.Remove(dir+"/h"))
	if got := fmt.Sprint(r.watched(flat)); got != "[CHMOD f RENAME f CREATE h REMOVE h]" {
		t.Errorf("flat: %s", got)
	}
	_ = r.watched(deep)
	must(t, os.MkdirAll(dir+"/new/sub", 0o755))
	_ = r.watched(deep) // from here on the new directories are watched
	must(t, os.WriteFile(dir+"/new/sub/x", nil, 0o644))
	if got := fmt.Sprint(r.watched(deep)); got != "[CREATE new/sub/x]" {
		t.Errorf("in a new directory: %s", got)
	}
	if status, body := r.fs("RemoveWatcher", `{"watcherId":"`+flat+`"}`); status != 200 {
		t.Errorf("remove: %d %v", status, body)
	}
	if _, body := r.fs("GetWatcherEvents", `{"watcherId":"`+flat+`"}`); body["code"] != "not_found" {
		t.Errorf("after removing: %v", body)
	}
	for path, code := range map[string]string{dir + "/new/sub/x": "invalid_argument", dir + "/none": "not_found"} {
		if _, body := r.fs("CreateWatcher", `{"path":"`+path+`"}`, root...); body["code"] != code {
			t.Errorf("watch %s: %v", path, body)
		}
	}

	s := r.stream("/filesystem.Filesystem/WatchDir", `{"path":"`+dir+`","includeEntry":true}`, root...)
	if message, _ := s.next(); message["start"] == nil {
		t.Fatalf("first message %v", message)
	}
	must(t, os.WriteFile(dir+"/live", []byte("12"), 0o644))
	message, _ := s.next()
	event, _ := message["filesystem"].(map[string]any)
	entry, _ := event["entry"].(map[string]any)
	if event["name"] != "live" || event["type"] != "EVENT_TYPE_CREATE" || entry["path"] != dir+"/live" {
		t.Errorf("live: %v", message)
	}
}

// Linux keeps names as bytes; what is not UTF-8 in them must not make a whole
// directory unreadable.
func TestSDKNamesThatAreNoUTF8(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	must(t, os.WriteFile(r.home+"/a\xffb", nil, 0o644))
	must(t, os.Symlink("x\xfe", r.home+"/link"))
	must(t, os.WriteFile(r.home+"/plain", nil, 0o644))
	must(t, unix.Setxattr(r.home+"/plain", "user.e2b.k\xff", []byte("v\xfe"), 0))
	status, body := r.fs("ListDir", `{"path":"`+r.home+`"}`)
	if text := fmt.Sprint(body); status != 200 || !strings.Contains(text, "a�b") || !strings.Contains(text, "x�") || !strings.Contains(text, "plain") {
		t.Errorf("list: %d %v", status, body)
	}
}

// The temporary file of a write is nobody's business.
func TestSDKWatchHidesTemporaryFiles(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRig(t)
	_, body := r.fs("CreateWatcher", `{"path":"`+r.home+`"}`)
	id := fmt.Sprint(body["watcherId"])
	if status, _, text := r.file("PUT", "seen", "user", strings.NewReader("x")); status != 200 {
		t.Fatalf("write: %d %s", status, text)
	}
	if got := fmt.Sprint(r.watched(id)); got != "[CREATE seen]" {
		t.Errorf("events: %s", got)
	}
}
