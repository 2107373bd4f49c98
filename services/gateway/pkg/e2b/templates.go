package e2b

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

const (
	maxLogEntries = 100     // of one answer
	maxLogBytes   = 8 << 20 // of a build, that are shown
)

type (
	templateBody struct {
		Name     string   `json:"name"`
		Alias    string   `json:"alias"` // as earlier SDKs name it
		Tags     []string `json:"tags"`
		CPUCount int64    `json:"cpuCount"`
		MemoryMB int64    `json:"memoryMB"`
		DiskMB   int64    `json:"minFreeDiskMb"`
	}

	templateAnswer struct {
		TemplateID string   `json:"templateID"`
		BuildID    string   `json:"buildID"`
		Public     bool     `json:"public"`
		Names      []string `json:"names"`
		Tags       []string `json:"tags"`
		Aliases    []string `json:"aliases"`
	}

	filesAnswer struct {
		Present bool   `json:"present"`
		URL     string `json:"url,omitempty"`
	}

	logEntry struct {
		Timestamp time.Time `json:"timestamp"`
		Level     string    `json:"level"`
		Message   string    `json:"message"`
	}

	statusAnswer struct {
		TemplateID string       `json:"templateID"`
		BuildID    string       `json:"buildID"`
		Status     string       `json:"status"`
		Logs       []string     `json:"logs"`
		LogEntries []logEntry   `json:"logEntries"`
		Reason     *buildReason `json:"reason,omitempty"`
	}

	buildReason struct {
		Message string `json:"message"`
	}
)

// templateRoutes are those by which the SDKs build templates. A template's ID
// is its name there: it has no other until its first build is asked for.
func (a *API) templateRoutes(r chi.Router) {
	for _, generation := range []string{"/v2", "/v3"} {
		a.handle(r, http.MethodPost, generation+"/templates", "announce-template", domain.ScopeManage, a.announce)
	}
	a.handle(r, http.MethodGet, "/templates/{template}/files/{hash}", "upload", domain.ScopeManage, a.filesOf)
	a.handle(r, http.MethodPost, "/v2/templates/{template}/builds/{build}", "build-template", domain.ScopeManage, a.build)
	a.handle(r, http.MethodGet, "/templates/{template}/builds/{build}/status", "get-build-log", domain.ScopeRead, a.status)
	a.handle(r, http.MethodGet, "/templates/aliases/{template}", "get-template", domain.ScopeRead, a.alias)
}

// announce takes down what a build shall be. Nothing is built yet.
func (a *API) announce(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body templateBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	if body.Name == "" {
		body.Name = body.Alias
	}
	name, tag, _ := strings.Cut(body.Name, ":")
	if err := domain.ValidateTemplateName("name", name); err != nil || name == "" {
		return errors.New(errors.InvalidArgument, "%q is not a name for a template", name[:min(len(name), 64)]).WithField("name")
	}
	tags := body.Tags
	if tag != "" {
		tags = append([]string{tag}, tags...)
	}
	if len(tags) == 0 {
		tags = []string{defaultTag}
	}
	const most = 1 << 20 // of cores, or MiB
	if min(body.CPUCount, body.MemoryMB, body.DiskMB) < 0 || max(body.CPUCount, body.MemoryMB, body.DiskMB) > most {
		return errors.New(errors.InvalidArgument, "the resources are out of range")
	}
	id := domain.NewID()
	if err := a.keep(r.Context(), by.ProjectID, announced{
		Build: id, Name: name, Tags: tagsOf(tags),
		Shape: domain.Resources{MilliCPU: body.CPUCount * 1000, MemoryBytes: body.MemoryMB * mib, DiskBytes: body.DiskMB * mib},
	}); err != nil {
		return err
	}
	trail.Subject(r.Context(), "template", name)
	return answer(w, http.StatusAccepted, templateAnswer{TemplateID: name, BuildID: buildID(id), Names: []string{name}, Aliases: []string{name}, Tags: tags})
}

// filesOf says whether the files of a COPY are there, and where they can be sent.
func (a *API) filesOf(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	hash := chi.URLParam(r, "hash")
	if !plainHash(hash) {
		return errors.New(errors.InvalidArgument, "the hash of the files is none").WithField("hash")
	}
	present, err := a.sent(r.Context(), by, hash)
	if err != nil {
		return err
	}
	out := filesAnswer{Present: present}
	prefix := Prefix
	if auth.HostName(r.Host) == Name+"."+a.Domain {
		prefix = ""
	}
	token, err := a.allow(r.Context(), by, hash)
	if err != nil {
		return err
	}
	out.URL = middleware.SchemeOf(r) + "://" + r.Host + prefix + uploadPath + token
	return answer(w, http.StatusCreated, out)
}

func plainHash(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' && c < 'A' || c > 'Z' && c < 'a' || c > 'z' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// uploadPath is where files are sent that a token in the path allows.
const uploadPath = "/uploads/"

// UploadRoute registers what the SDKs send files to: without a key, by the
// address that a holder of one was told.
func (a *API) UploadRoute(r chi.Router) {
	r.Put(uploadPath+"{token}", func(w http.ResponseWriter, r *http.Request) {
		if rec := middleware.RecordOf(r.Context()); rec != nil {
			rec.Route = Prefix + uploadPath + "{token}"
		}
		if err := a.upload(w, r); err != nil {
			writeError(w, err)
		}
	})
}

func (a *API) upload(w http.ResponseWriter, r *http.Request) error {
	by, hash, err := a.take(r.Context(), chi.URLParam(r, "token"))
	if err != nil {
		return err
	}
	if err := middleware.LimitBody(w, r, a.MaxUploadBytes); err != nil {
		return err
	}
	if _, err := a.VMs.SaveUpload(r.Context(), by, filesName(hash), r.Body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// build begins what was announced.
func (a *API) build(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body buildBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	want, err := a.announcedBuild(r.Context(), by.ProjectID, chi.URLParam(r, "template"), fromBuildID(chi.URLParam(r, "build")))
	if err != nil {
		return err
	}
	text, hashes, err := body.steps()
	if err != nil {
		return err
	}
	login, err := body.Registry.login()
	if err != nil {
		return err
	}
	req := vmm.BuildTemplate{
		ID: want.Build, Name: want.Name, Tags: want.Tags, Shape: want.Shape, Source: domain.TemplateSource{Steps: text}, NoCache: body.forced(),
		Warm: domain.WarmUp{Start: body.StartCmd}, TryStart: true, Registry: login,
	}
	if req.Warm.Start != "" {
		req.Warm.Ready = body.ReadyCmd // else there is nothing to wait for
	}
	if len(hashes) > 0 {
		id, err := a.contextOf(r.Context(), by, hashes)
		if err != nil {
			return err
		}
		req.Source.Context = id.String()
	}
	trail.Subject(r.Context(), "template", want.Name)
	if _, err := a.VMs.BuildTemplate(r.Context(), by, req); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// status tells how a build fares, with its log from an entry on.
func (a *API) status(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	name, id := chi.URLParam(r, "template"), chi.URLParam(r, "build")
	offset := 0
	if text := r.URL.Query().Get("logsOffset"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return errors.New(errors.InvalidArgument, "logsOffset is not a number of entries").WithField("logsOffset")
		}
		offset = n
	}
	out := statusAnswer{TemplateID: name, BuildID: id, Status: string(domain.BuildWaiting), Logs: []string{}, LogEntries: []logEntry{}}
	b, err := a.buildOf(r, by, name, fromBuildID(id))
	if err != nil {
		return err
	}
	if b == nil { // announced, not begun
		return answer(w, http.StatusOK, out)
	}
	out.Status = string(b.State)
	if b.State == domain.BuildError {
		out.Reason = &buildReason{Message: b.Reason}
	}
	log, err := a.VMs.BuildLog(r.Context(), by, b.ID, 0, false)
	if errors.HasCode(err, errors.NotFound) || errors.HasCode(err, errors.Unavailable) {
		return answer(w, http.StatusOK, out) // its worker is away or gone: how it fares is known without
	}
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	text, err := io.ReadAll(io.LimitReader(log, maxLogBytes))
	if err != nil {
		return err
	}
	lines := strings.Split(strings.ToValidUTF8(string(text), "\ufffd"), "\n")
	if b.State == domain.BuildWaiting || b.State == domain.BuildBuilding || lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1] // not written to its end
	}
	for _, line := range lines[min(offset, len(lines)):min(offset+maxLogEntries, len(lines))] {
		out.Logs = append(out.Logs, line)
		out.LogEntries = append(out.LogEntries, logEntry{Timestamp: b.CreatedAt.UTC().Truncate(time.Millisecond), Level: "info", Message: line})
	}
	return answer(w, http.StatusOK, out)
}

// buildOf finds a build; nil: it was announced and has not begun.
func (a *API) buildOf(r *http.Request, by vmm.Caller, name, id string) (*domain.Build, error) {
	info, err := a.VMs.GetTemplate(r.Context(), by, name)
	if err == nil {
		for _, b := range info.Builds {
			if b.ID.String() == id {
				return b, nil
			}
		}
	} else if !errors.HasCode(err, errors.NotFound) && !errors.HasCode(err, errors.InvalidArgument) {
		return nil, err
	}
	_, err = a.announcedBuild(r.Context(), by.ProjectID, name, id)
	if errors.HasCode(err, errors.NotFound) {
		err = errors.New(errors.NotFound, "the template has no such build")
	}
	return nil, err
}

// alias says whether a template of a name is there.
func (a *API) alias(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	name, _, _ := strings.Cut(chi.URLParam(r, "template"), ":")
	info, err := a.VMs.GetTemplate(r.Context(), by, name)
	if errors.HasCode(err, errors.InvalidArgument) { // what can be no name is none
		err = errors.New(errors.NotFound, "there is no template of this name")
	}
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, map[string]any{"templateID": info.Template.Name, "public": info.Template.Public})
}

// buildBody is how the SDKs describe a build.
type buildBody struct {
	FromImage    string         `json:"fromImage"`
	FromTemplate string         `json:"fromTemplate"`
	Registry     *registryLogin `json:"fromImageRegistry"`
	Force        bool           `json:"force"`
	Steps        []buildStep    `json:"steps"`
	StartCmd     string         `json:"startCmd"`
	ReadyCmd     string         `json:"readyCmd"`
}

// registryLogin is what a registry is shown, by its kind.
type registryLogin struct {
	Type           string         `json:"type"`
	Username       string         `json:"username"`
	Password       logging.Secret `json:"password"`
	ServiceAccount logging.Secret `json:"serviceAccountJson"`
}

// login translates it. Returns Unsupported for what has to be exchanged with
// a cloud first.
func (l *registryLogin) login() (vmm.RegistryLogin, error) {
	if l == nil {
		return vmm.RegistryLogin{}, nil
	}
	out := vmm.RegistryLogin{Username: l.Username, Password: l.Password}
	switch l.Type {
	case "registry":
	case "gcp": // takes the document itself, from this user
		out = vmm.RegistryLogin{Username: "_json_key", Password: l.ServiceAccount}
	case "aws":
		return out, errors.New(errors.Unsupported, "keys of AWS are not exchanged for a registry's password").WithField("fromImageRegistry").
			WithHint("give the user AWS and what `aws ecr get-login-password` prints")
	default:
		return out, unsupported("fromImageRegistry", "there is no such kind of registry")
	}
	if out.Username == "" || out.Password == "" {
		return out, errors.New(errors.InvalidArgument, "the registry's credentials are incomplete").WithField("fromImageRegistry")
	}
	return out, nil
}

type buildStep struct {
	Type      string   `json:"type"`
	Args      []string `json:"args"`
	FilesHash string   `json:"filesHash"`
	Force     bool     `json:"force"`
}

func (b buildBody) forced() bool {
	for _, s := range b.Steps {
		if s.Force {
			return true
		}
	}
	return b.Force
}

// sdkUser is who commands of E2B's templates run as unless they say otherwise.
const sdkUser = "user"

// steps writes a build in the language of ours, and names the files that it copies.
func (b buildBody) steps() (text string, hashes []string, err error) {
	var out strings.Builder
	line := func(instruction string, words ...string) {
		list, _ := json.Marshal(words) // of strings
		out.WriteString(instruction + " " + string(list) + "\n")
	}
	shell := func(command string) { line("RUN", "/bin/bash", "-l", "-c", command) }
	from := b.FromTemplate
	if from == "" {
		from = b.FromImage
	}
	if from == "" || strings.ContainsAny(from, " \t\r\n") {
		return "", nil, errors.New(errors.InvalidArgument, "it does not say what it is made from").WithField("fromImage")
	}
	out.WriteString("FROM " + from + "\n")
	if b.FromTemplate == "" { // images have no user of that name
		line("RUN", "/bin/sh", "-c", "id "+sdkUser+" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "+sdkUser+" || adduser -D "+sdkUser)
	}
	out.WriteString("USER " + sdkUser + "\nWORKDIR /home/" + sdkUser + "\n")
	user := sdkUser
	arg := func(s buildStep, i int) string {
		if i < len(s.Args) {
			return s.Args[i]
		}
		return ""
	}
	for _, s := range b.Steps {
		switch s.Type {
		case "RUN":
			if as := arg(s, 1); as != "" && as != user {
				out.WriteString("USER " + quoted(as) + "\n")
				shell(arg(s, 0))
				out.WriteString("USER " + quoted(user) + "\n")
			} else {
				shell(arg(s, 0))
			}
		case "ENV":
			for i := 0; i+1 < len(s.Args); i += 2 {
				out.WriteString("ENV " + literal(s.Args[i]) + "=" + quoted(s.Args[i+1]) + "\n")
			}
		case "WORKDIR":
			out.WriteString("WORKDIR " + quoted(arg(s, 0)) + "\n")
		case "USER":
			user = arg(s, 0)
			out.WriteString("USER " + quoted(user) + "\n")
		case "COPY":
			if !plainHash(s.FilesHash) {
				return "", nil, errors.New(errors.InvalidArgument, "a COPY names no files").WithField("steps")
			}
			owner := arg(s, 2)
			if owner == "" {
				owner = user
			}
			flags := "COPY --chown=" + quoted(owner)
			if mode := arg(s, 3); mode != "" {
				flags += " --chmod=" + quoted(mode)
			}
			hashes = append(hashes, s.FilesHash)
			line(flags, literal(s.FilesHash+"/"+arg(s, 0)), literal(arg(s, 1)))
		default:
			return "", nil, unsupported("steps", "there is no such step")
		}
	}
	return out.String(), hashes, nil
}

// quoted is a word of a step that means itself, but for variables in it.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ", "\r", " ").Replace(s) + `"`
}

// literal keeps a source of COPY from being taken for a line of more.
func literal(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }
