package e2b

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

type (
	volumeBody struct {
		Name string `json:"name"`
	}

	volumeInfo struct {
		VolumeID string `json:"volumeID"`
		Name     string `json:"name"`
	}

	volumeAndToken struct {
		volumeInfo
		Token  string `json:"token"`
		Domain string `json:"domain,omitempty"`
	}

	volumeEntry struct {
		Name   string              `json:"name"`
		Type   vmm.VolumeEntryType `json:"type"`
		Path   string              `json:"path"`
		Size   int64               `json:"size"`
		Mode   uint32              `json:"mode"`
		UID    uint32              `json:"uid"`
		GID    uint32              `json:"gid"`
		ATime  time.Time           `json:"atime"`
		MTime  time.Time           `json:"mtime"`
		CTime  time.Time           `json:"ctime"`
		Target string              `json:"target,omitempty"`
	}

	attrBody struct {
		UID  *uint32 `json:"uid"`
		GID  *uint32 `json:"gid"`
		Mode *uint32 `json:"mode"`
	}
)

// volumeRoutes are those of volumes as such. Who can see a volume's token can
// write to it.
func (a *API) volumeRoutes(r chi.Router) {
	a.handle(r, http.MethodPost, "/volumes", "create-volume", domain.ScopeRun, a.createVolume)
	a.handle(r, http.MethodGet, "/volumes", "list-volumes", domain.ScopeRead, a.listVolumes)
	a.handle(r, http.MethodGet, "/volumes/{volume}", "get-volume-token", domain.ScopeRun, a.getVolume)
	a.handle(r, http.MethodDelete, "/volumes/{volume}", "delete-volume", domain.ScopeRun, a.deleteVolume)
}

func (a *API) createVolume(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	var body volumeBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	v, err := a.VMs.CreateVolume(r.Context(), by, vmm.CreateVolume{Name: body.Name})
	if err != nil {
		return err
	}
	trail.Subject(r.Context(), "volume", v.ID.String())
	return a.volume(w, r, by, http.StatusCreated, v)
}

// volume answers with a volume and what opens its content.
func (a *API) volume(w http.ResponseWriter, r *http.Request, by vmm.Caller, status int, v *domain.Volume) error {
	token, err := a.VMs.VolumeToken(r.Context(), by, v.ID)
	if err != nil {
		return err
	}
	return answer(w, status, volumeAndToken{volumeInfo: volumeInfo{VolumeID: v.ID.String(), Name: v.Name}, Token: token, Domain: a.domainOf(r)})
}

func (a *API) listVolumes(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	list, err := a.VMs.ListVolumes(r.Context(), by, vmm.Page{Limit: domain.MaxVolumes})
	if err != nil {
		return err
	}
	out := make([]volumeInfo, 0, len(list.Items))
	for _, v := range list.Items {
		out = append(out, volumeInfo{VolumeID: v.ID.String(), Name: v.Name})
	}
	return answer(w, http.StatusOK, out)
}

func (a *API) getVolume(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	id, err := volumeID(r)
	if err != nil {
		return err
	}
	v, err := a.VMs.GetVolume(r.Context(), by, id)
	if err != nil {
		return err
	}
	return a.volume(w, r, by, http.StatusOK, v)
}

func (a *API) deleteVolume(w http.ResponseWriter, r *http.Request, by vmm.Caller) error {
	id, err := volumeID(r)
	if err != nil {
		return err
	}
	trail.Subject(r.Context(), "volume", id)
	if err := a.VMs.DeleteVolume(r.Context(), by, id); err != nil {
		return err
	}
	return empty(w)
}

func volumeID(r *http.Request) (string, error) {
	id := chi.URLParam(r, "volume")
	if !domain.IsID(id) {
		return "", errors.New(errors.NotFound, "there is no such volume")
	}
	return id, nil
}

// VolumeContentRoutes registers what the SDKs read and write volumes' files by:
// without a key, by the volume's token.
func (a *API) VolumeContentRoutes(r chi.Router) {
	for _, c := range []struct {
		method, path string
		do           contentHandler
	}{
		{http.MethodGet, "path", a.statPath},
		{http.MethodPatch, "path", a.setPath},
		{http.MethodDelete, "path", a.removePath},
		{http.MethodGet, "dir", a.listDir},
		{http.MethodPost, "dir", a.makeDir},
		{http.MethodGet, "file", a.readFile},
		{http.MethodPut, "file", a.writeFile},
	} {
		path := "/volumecontent/{volume}/" + c.path
		r.MethodFunc(c.method, path, func(w http.ResponseWriter, r *http.Request) {
			if rec := middleware.RecordOf(r.Context()); rec != nil {
				rec.Route = Prefix + path
			}
			w.Header().Set("Cache-Control", "no-store")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if err := a.content(w, r, c.do); err != nil {
				writeError(w, err)
			}
		})
	}
}

// content is a volume that was opened, for one request.
type content struct {
	vmm.VolumeFiles
	path string // as it was asked for
	size int64  // what the volume can hold
}

type contentHandler func(w http.ResponseWriter, r *http.Request, c content) error

func (a *API) content(w http.ResponseWriter, r *http.Request, do contentHandler) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return errors.New(errors.Unauthenticated, "the token of the volume is missing").WithHint("Authorization: Bearer <token>")
	}
	files, size, err := a.VMs.OpenVolume(r.Context(), domain.ID(chi.URLParam(r, "volume")), token)
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()
	return do(w, r, content{VolumeFiles: files, path: r.URL.Query().Get("path"), size: size})
}

func entryOf(e vmm.VolumeEntry) volumeEntry {
	return volumeEntry{
		Name: e.Name, Type: e.Type, Path: e.Path, Size: e.Size, Mode: e.Mode, UID: e.UID, GID: e.GID,
		ATime: e.AccessedAt, MTime: e.ModifiedAt, CTime: e.ChangedAt, Target: e.Target,
	}
}

func answerEntry(w http.ResponseWriter, status int, e vmm.VolumeEntry, err error) error {
	if err != nil {
		return err
	}
	return answer(w, status, entryOf(e))
}

func (a *API) statPath(w http.ResponseWriter, r *http.Request, c content) error {
	e, err := c.Stat(r.Context(), c.path)
	return answerEntry(w, http.StatusOK, e, err)
}

func (a *API) setPath(w http.ResponseWriter, r *http.Request, c content) error {
	var body attrBody
	if _, err := a.read(w, r, &body); err != nil {
		return err
	}
	e, err := c.Set(r.Context(), c.path, vmm.VolumeAttr(body))
	return answerEntry(w, http.StatusOK, e, err)
}

func (a *API) removePath(w http.ResponseWriter, r *http.Request, c content) error {
	if err := c.Remove(r.Context(), c.path); err != nil {
		return err
	}
	return empty(w)
}

func (a *API) listDir(w http.ResponseWriter, r *http.Request, c content) error {
	depth := int64(1)
	if text := r.URL.Query().Get("depth"); text != "" {
		var err error
		if depth, err = positive("depth", text); err != nil {
			return err
		}
	}
	const most = 1 << 20 // far beyond what is listed
	entries, err := c.List(r.Context(), c.path, int(min(depth, most)))
	if err != nil {
		return err
	}
	out := make([]volumeEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, entryOf(e))
	}
	return answer(w, http.StatusOK, out)
}

func (a *API) makeDir(w http.ResponseWriter, r *http.Request, c content) error {
	attr, force, err := attrOf(r)
	if err != nil {
		return err
	}
	e, err := c.MakeDir(r.Context(), c.path, attr, force)
	return answerEntry(w, http.StatusCreated, e, err)
}

func (a *API) readFile(w http.ResponseWriter, r *http.Request, c content) error {
	e, file, err := c.Read(r.Context(), c.path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", e.ModifiedAt, file)
	return nil
}

func (a *API) writeFile(w http.ResponseWriter, r *http.Request, c content) error {
	attr, force, err := attrOf(r)
	if err != nil {
		return err
	}
	if err := middleware.LimitBody(w, r, c.size); err != nil {
		return err
	}
	e, err := c.Write(r.Context(), c.path, r.Body, attr, force)
	return answerEntry(w, http.StatusCreated, e, err)
}

// attrOf reads what a new file or directory shall be, and whether the
// directories above it shall be made.
func attrOf(r *http.Request) (attr vmm.VolumeAttr, force bool, err error) {
	q := r.URL.Query()
	for _, part := range []struct {
		name string
		into **uint32
	}{{"uid", &attr.UID}, {"gid", &attr.GID}, {"mode", &attr.Mode}} {
		text := q.Get(part.name)
		if text == "" {
			continue
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return attr, false, errors.New(errors.InvalidArgument, "%s is not a number", part.name).WithField(part.name)
		}
		v := uint32(n)
		*part.into = &v
	}
	if text := q.Get("force"); text != "" {
		if force, err = strconv.ParseBool(text); err != nil {
			return attr, false, errors.New(errors.InvalidArgument, "force is true or false").WithField("force")
		}
	}
	return attr, force, nil
}

// toMounts translates where a sandbox shall have volumes; none that are named
// is not the same as none that there shall be.
func toMounts(mounts []volumeMount) []domain.Mount {
	if mounts == nil {
		return nil
	}
	out := make([]domain.Mount, 0, len(mounts))
	for _, m := range mounts {
		out = append(out, domain.Mount{Source: m.Name, Target: m.Path})
	}
	return out
}

func fromMounts(mounts []domain.Mount) []volumeMount {
	var out []volumeMount
	for _, m := range mounts {
		out = append(out, volumeMount{Name: m.Source, Path: m.Target})
	}
	return out
}
