package api

import (
	"context"
	"io"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/auth"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
	"github.com/aetherium/aetherium/services/gateway/pkg/trail"
)

type (
	// VolumeFileInput names a file in a volume.
	VolumeFileInput struct {
		VolumePath
		Path string `query:"path" required:"true" minLength:"1" maxLength:"4095" doc:"From the volume's root on, which is /"`
	}
	readVolumeFileInput struct {
		VolumeFileInput
		ReadHeaders
	}
	writeVolumeFileInput struct {
		VolumeFileInput
		Mode string `query:"mode" maxLength:"5" pattern:"^0?[0-7]{3,4}$" doc:"Octal permission bits; absent: those that it has, or 0644"`
	}
	listVolumeFilesInput struct {
		VolumeFileInput
		Depth int `query:"depth" minimum:"1" maximum:"64" default:"1" doc:"Levels of directories"`
	}
	makeVolumeDirInput struct {
		VolumePath
		KeyHeader
		Body wire.MakeVolumeDir
	}
)

func (a *API) volumeFileRoutes() {
	const tag, files = "Volumes", "/volumes/{volume}/files"
	reads(a, "volume-file", files, tag, "Read a file in a volume", "Describe a file in a volume by headers", a.readVolumeFile)

	write := operation("write-volume-file", http.MethodPut, files, tag, "Write a file in a volume", "Replaces it as a whole, and makes the directories above it. A new one is user 1000's.")
	write.RequestBody = binaryBody("application/octet-stream", "The content; none makes an empty file")
	write.Responses = map[string]*huma.Response{"200": jsonOf[wire.FileInfo](a, "Written")}
	register(a, write, options{scope: domain.ScopeRun}, a.writeVolumeFile)

	register(a, operation("remove-volume-file", http.MethodDelete, files, tag, "Remove a file or a directory with what is in it from a volume", ""), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *VolumeFileInput) (*empty, error) {
			return nil, a.inVolume(ctx, in.VolumePath, func(f vmm.VolumeFiles, _ *domain.Volume) error { return f.Remove(ctx, in.Path) })
		})
	register(a, operation("stat-volume-file", http.MethodGet, files+"/stat", tag, "Describe a file in a volume", ""), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *VolumeFileInput) (*fileOutput, error) {
			return a.volumeInfo(ctx, in.VolumePath, func(f vmm.VolumeFiles) (vmm.VolumeEntry, error) { return f.Stat(ctx, in.Path) })
		})
	register(a, operation("list-volume-files", http.MethodGet, files+"/list", tag, "List a directory in a volume", "At most 10 000 entries."), options{scope: domain.ScopeRead},
		func(ctx context.Context, in *listVolumeFilesInput) (out *filesOutput, err error) {
			err = a.inVolume(ctx, in.VolumePath, func(f vmm.VolumeFiles, _ *domain.Volume) error {
				entries, err := f.List(ctx, in.Path, in.Depth)
				out = &filesOutput{&wire.List[wire.FileInfo]{Items: mapped(entries, func(e vmm.VolumeEntry) wire.FileInfo { return fileInfo(volumeFile(e)) })}}
				return err
			})
			return out, err
		})
	register(a, operation("make-volume-dir", http.MethodPost, files+"/mkdir", tag, "Make a directory and its missing parents in a volume", "A new one is user 1000's."), options{scope: domain.ScopeRun},
		func(ctx context.Context, in *makeVolumeDirInput) (*fileOutput, error) {
			return a.volumeInfo(ctx, in.VolumePath, func(f vmm.VolumeFiles) (vmm.VolumeEntry, error) {
				return f.MakeDir(ctx, in.Body.Path, modeOf(in.Body.Mode), true)
			})
		})
}

// inVolume does something with the files of the volume that a path names.
func (a *API) inVolume(ctx context.Context, p VolumePath, do func(vmm.VolumeFiles, *domain.Volume) error) error {
	files, v, err := a.VMs.OpenOwnVolume(ctx, auth.CallerFrom(ctx), p.Volume)
	if err != nil {
		return err
	}
	defer func() { _ = files.Close() }()
	trail.Subject(ctx, "volume", v.ID.String())
	return do(files, v)
}

func (a *API) volumeInfo(ctx context.Context, p VolumePath, do func(vmm.VolumeFiles) (vmm.VolumeEntry, error)) (out *fileOutput, err error) {
	err = a.inVolume(ctx, p, func(f vmm.VolumeFiles, _ *domain.Volume) error {
		e, err := do(f)
		out = &fileOutput{fileInfo(volumeFile(e))}
		return err
	})
	return out, err
}

// volumeFile is a volume's entry as files in VMs are described.
func volumeFile(e vmm.VolumeEntry) vmm.FileInfo {
	kind := string(e.Type)
	switch e.Type {
	case vmm.VolumeDirectory:
		kind = "dir"
	case vmm.VolumeOther:
		kind = "other"
	}
	number := func(id uint32) string { return strconv.FormatUint(uint64(id), 10) }
	return vmm.FileInfo{
		Name: e.Name, Path: e.Path, Type: kind, Size: e.Size, Mode: e.Mode, Owner: number(e.UID), Group: number(e.GID),
		ModifiedAt: e.ModifiedAt, SymlinkTarget: e.Target,
	}
}

// modeOf reads an octal mode that its schema has checked; empty is none.
func modeOf(octal string) vmm.VolumeAttr {
	if octal == "" {
		return vmm.VolumeAttr{}
	}
	mode := parseMode(octal)
	return vmm.VolumeAttr{Mode: &mode}
}

func (a *API) readVolumeFile(ctx context.Context, in *readVolumeFileInput) (*huma.StreamResponse, error) {
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.inVolume(r.Context(), in.VolumePath, func(f vmm.VolumeFiles, _ *domain.Volume) error {
			if r.Method == http.MethodHead { // also of what is no file
				e, err := f.Stat(r.Context(), in.Path)
				if err == nil {
					in.answered(w, r, volumeFile(e))
				}
				return err
			}
			e, file, err := f.Read(r.Context(), in.Path)
			if err != nil {
				return err
			}
			defer func() { _ = file.Close() }()
			info := volumeFile(e)
			if in.answered(w, r, info) {
				return nil
			}
			part, partial, err := in.span(info)
			if err != nil {
				return err
			}
			describe(w.Header(), info)
			if !partial {
				return copyExactly(w, http.StatusOK, file, info.Size)
			}
			if _, err := file.Seek(part.start, io.SeekStart); err != nil {
				return err
			}
			return copyPart(w, file, part, info)
		})
	}), nil
}

func (a *API) writeVolumeFile(ctx context.Context, in *writeVolumeFileInput) (*huma.StreamResponse, error) {
	return streaming(func(w http.ResponseWriter, r *http.Request) error {
		return a.inVolume(r.Context(), in.VolumePath, func(f vmm.VolumeFiles, v *domain.Volume) error {
			if err := middleware.LimitBody(w, r, v.DiskBytes); err != nil {
				return err
			}
			e, err := f.Write(r.Context(), in.Path, r.Body, modeOf(in.Mode), true)
			if err != nil {
				return err
			}
			return writeJSON(w, http.StatusOK, fileInfo(volumeFile(e)))
		})
	}), nil
}
