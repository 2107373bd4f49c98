package docker

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/core/pkg/vmm/docker/internal/roottar"
)

// image gives the image that a machine is made from: the snapshot's, or the
// build's, which the first machine of a build makes. Images are not swept
// before the caller has its container.
func (d *Driver) image(ctx context.Context, spec vmm.Spec) (string, error) {
	if spec.DiskFrom != "" {
		ref := d.cfg.snapshotImage(spec.DiskFrom)
		has, err := d.has(ctx, ref)
		if err == nil && !has {
			err = errors.New(errors.NotFound, "there is no such snapshot").WithField("disk_from")
		}
		return ref, err
	}
	ref := d.cfg.buildImage(spec.BuildID)
	return ref, d.imports.Do(ctx, ref,
		func() (bool, error) { return d.has(ctx, ref) },
		func() error { return d.importTree(ctx, ref, spec) })
}

func (d *Driver) has(ctx context.Context, ref string) (bool, error) {
	_, err := d.engine.ImageInspect(ctx, ref)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, said(err, "cannot look at an image")
}

// importTree makes an image of a build's files. One that is cut short is none.
func (d *Driver) importTree(ctx context.Context, ref string, spec vmm.Spec) error {
	const message = "cannot make an image of the template"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := roottar.Write(w, spec.RootFS)
		packed <- err
		_ = w.CloseWithError(err)
	}()
	result, err := d.engine.ImageImport(ctx, client.ImageImportSource{Source: r, SourceName: "-"}, ref, client.ImageImportOptions{
		Message: "the files of a template's build", Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Changes: []string{
			"LABEL " + labelInstance + "=" + strconv.Quote(d.cfg.Instance), "LABEL " + labelBuild + "=" + strconv.Quote(spec.BuildID),
			"LABEL " + labelRootFS + "=" + strconv.Quote(spec.RootFS),
		},
	})
	if err == nil {
		err = progress(result)
	}
	_ = r.CloseWithError(context.Canceled) // whatever the engine did not read
	if packErr := <-packed; packErr != nil && !errors.Is(packErr, context.Canceled) && err != nil {
		return errors.Wrap(packErr, errors.Internal, message)
	}
	return said(err, message)
}

// progress reads what the engine tells of a work to its end: an error comes as
// the last of it.
func progress(r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	for words := json.NewDecoder(r); ; {
		var word struct {
			Error string `json:"error"`
		}
		if err := words.Decode(&word); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if word.Error != "" {
			return errors.Plain(word.Error)
		}
	}
}

// sweep removes images that nobody needs: of deleted snapshots, and of builds
// for which gone holds, that no container is made of. images is held for writing:
// meanwhile none is made a container of.
func (d *Driver) sweep(ctx context.Context, gone func(rootFS string) bool) error {
	list, err := d.engine.ImageList(ctx, client.ImageListOptions{Filters: d.mine()})
	if err != nil {
		return said(err, "cannot list the images")
	}
	for _, image := range list.Items {
		for _, ref := range image.RepoTags {
			tag, ok := strings.CutPrefix(ref, d.cfg.repository()+":")
			if !ok || strings.HasPrefix(tag, snapshotTag) || strings.HasPrefix(tag, buildTag) && !gone(image.Labels[labelRootFS]) {
				continue
			}
			// Conflict: a container or another image stands on it.
			_, err := d.engine.ImageRemove(ctx, ref, client.ImageRemoveOptions{PruneChildren: true})
			if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				return said(err, "cannot remove an image")
			}
		}
	}
	return nil
}

// trySweep is sweep for templates that are gone, unless a machine is being made,
// which may take as long as its image does: then the next to be deleted sweeps.
func (d *Driver) trySweep(ctx context.Context) error {
	if !d.images.TryLock() {
		return nil
	}
	defer d.images.Unlock()
	return d.sweep(ctx, vanished)
}

// vanished reports that a template is no longer on this node.
func vanished(rootFS string) bool {
	_, err := os.Stat(rootFS)
	return errors.Is(err, os.ErrNotExist)
}
