package image

import (
	"context"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/tree"
	"github.com/aetherium/aetherium/services/core/pkg/image/internal/unpack"
)

const (
	maxReference = 512
	maxLayers    = 1000 // no builder makes nearly as many
	downloads    = 3    // layers at a time, as Docker does
	maxEnv       = 1000
	patience     = 15 * time.Second
)

// fromImage pulls an OCI image for this node's platform and applies its layers.
func (b *build) fromImage(ctx context.Context, reference string, how Access) error {
	ref, err := parseReference(reference)
	if err != nil {
		return err
	}
	want, err := v1.ParsePlatform(platform())
	if err != nil {
		return err
	}
	b.say("pull", "asking %s for %s", ref.Context().RegistryStr(), ref.Name())
	opts, err := b.registryOptions(ref, how)
	if err != nil {
		return err
	}
	img, err := resolve(ctx, ref, opts)
	if err != nil {
		return registryError(ctx, err, ref, how)
	}
	digest, err := img.Digest()
	if err != nil {
		return registryError(ctx, err, ref, how)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return registryError(ctx, err, ref, how)
	}
	if cfg.OS != want.OS || cfg.Architecture != want.Architecture {
		return errors.New(errors.InvalidArgument, "the image is for %s/%s; this node runs %s", cfg.OS, cfg.Architecture, platform()).WithField("source.image")
	}
	if err := b.adopt(cfg.Config); err != nil {
		return err
	}
	b.result.Pinned = ref.Context().Name() + "@" + digest.String()
	b.say("pull", "%s", b.result.Pinned)
	layers, total, err := b.layers(img)
	if err != nil {
		return registryError(ctx, err, ref, how)
	}
	if err := b.applyLayers(ctx, layers, total); err != nil {
		return registryError(ctx, err, ref, how)
	}
	return nil
}

// registryOptions is how this node asks the registry of an image.
func (s *Store) registryOptions(ref name.Reference, how Access) ([]remote.Option, error) {
	want, err := v1.ParsePlatform(platform())
	if err != nil {
		return nil, err
	}
	opts := []remote.Option{remote.WithPlatform(*want), remote.WithUserAgent("aetherium")}
	login := remote.WithAuth(&authn.Basic{Username: how.Username, Password: how.Password.Reveal()})
	if how.Untrusted && !slices.Contains(s.cfg.Registries, ref.Context().RegistryStr()) {
		if how.Username == "" {
			login = remote.WithAuth(authn.Anonymous)
		}
		return append(opts, login, remote.WithTransport(newPublicOnly())), nil
	}
	if how.Username == "" {
		login = remote.WithAuthFromKeychain(authn.DefaultKeychain)
	}
	opts = append(opts, login)
	if s.cfg.Transport != nil {
		opts = append(opts, remote.WithTransport(s.cfg.Transport))
	}
	return opts, nil
}

// resolve finds the image. A registry that does not even answer the first
// request soon is away, however long the caller would wait for the layers.
func resolve(ctx context.Context, ref name.Reference, opts []remote.Option) (v1.Image, error) {
	puller, err := remote.NewPuller(opts...)
	if err != nil {
		return nil, err
	}
	first, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// Registries need not serve HEAD: any answer will do here.
	if _, err := puller.Head(first, ref); err != nil && first.Err() != nil && ctx.Err() == nil {
		return nil, errors.Wrap(err, errors.Unavailable, "%s does not answer within %s", ref.Context().RegistryStr(), patience)
	}
	d, err := puller.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	return d.Image()
}

// adopt takes over what the image's configuration says of processes.
func (b *build) adopt(c v1.Config) error {
	if len(c.Env) > maxEnv {
		return errors.New(errors.InvalidArgument, "the image sets %d environment variables; at most %d are taken", len(c.Env), maxEnv)
	}
	for _, kv := range c.Env {
		k, v, ok := strings.Cut(kv, "=")
		if !ok || k == "" || strings.ContainsRune(kv, 0) {
			b.say("pull", "a malformed environment variable is left out: %q", kv)
			continue
		}
		b.result.Env[k] = v
	}
	if c.WorkingDir != "" && c.WorkingDir != "/" {
		b.result.WorkDir = path.Join("/", c.WorkingDir)
	}
	if c.User != "" {
		b.result.User = c.User
	}
	return nil
}

// layers checks the list before anything is fetched.
func (b *build) layers(img v1.Image) ([]v1.Layer, int64, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, 0, err
	}
	if len(layers) > maxLayers {
		return nil, 0, errors.New(errors.InvalidArgument, "the image has %d layers; at most %d are taken", len(layers), maxLayers)
	}
	var total int64
	for _, l := range layers {
		mt, err := l.MediaType()
		if err != nil {
			return nil, 0, err
		}
		// Foreign layers come from addresses that the image's author chose.
		if !mt.IsLayer() || !mt.IsDistributable() {
			return nil, 0, errors.New(errors.InvalidArgument, "the image has a layer of the unsupported type %.100q", string(mt))
		}
		size, err := l.Size()
		if err != nil {
			return nil, 0, err
		}
		if size < 0 || size > b.cfg.Limits.Bytes-total {
			return nil, 0, errors.New(errors.TooLarge, "the image's layers exceed the limit of %d bytes", b.cfg.Limits.Bytes)
		}
		total += size
	}
	return layers, total, nil
}

// applyLayers downloads layers side by side into files, where their digests
// are checked, and applies each as soon as those below it are there.
func (b *build) applyLayers(ctx context.Context, layers []v1.Layer, total int64) error {
	blobs, err := os.MkdirTemp(b.tmp, "layers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(blobs)
	t, err := tree.Open(b.root)
	if err != nil {
		return err
	}
	defer t.Close()
	u := unpack.New(t, b.cfg.Limits, true, b.note("unpack"))

	var fetched atomic.Int64
	ready := make([]chan struct{}, len(layers))
	for i := range ready {
		ready[i] = make(chan struct{})
	}
	file := func(i int) string { return filepath.Join(blobs, strconv.Itoa(i)) }
	g, ctx := errgroup.WithContext(ctx)
	slots := make(chan struct{}, downloads)
	g.Go(func() error {
		for i, l := range layers {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				defer func() { <-slots }()
				err := download(ctx, l, file(i), func(n int64) { b.tick("pull", "bytes downloaded", fetched.Add(n), total) })
				if err == nil {
					close(ready[i])
				}
				return err
			})
		}
		return nil
	})
	g.Go(func() error {
		for i, l := range layers {
			select {
			case <-ready[i]:
			case <-ctx.Done():
				return ctx.Err()
			}
			id, err := l.Digest()
			if err != nil {
				return err
			}
			b.say("unpack", "layer %d of %d: %s", i+1, len(layers), id)
			if err := applyLayer(ctx, u, file(i)); err != nil {
				return err
			}
			_ = os.Remove(file(i))
		}
		return nil
	})
	return g.Wait()
}

// download writes a layer as it is stored; reading it to its end checks size
// and digest.
func download(ctx context.Context, l v1.Layer, to string, got func(int64)) error {
	r, err := l.Compressed()
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { _ = r.Close() })
	defer stop()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, &meter{r: r, tick: deltas(got)})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// deltas turns a running total into steps.
func deltas(got func(int64)) func(int64) {
	var last int64
	return func(done int64) {
		got(done - last)
		last = done
	}
}

func applyLayer(ctx context.Context, u *unpack.Unpacker, blob string) error {
	f, err := os.Open(blob)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := unpack.Decompress(f)
	if err != nil {
		return err
	}
	defer plain.Close()
	return u.Layer(ctx, plain)
}

// registryError says what a registry's answer means for the caller.
func registryError(ctx context.Context, err error, ref name.Reference, how Access) error {
	var coded *errors.Error
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.As(err, &coded) {
		return err
	}
	registry := ref.Context().RegistryStr()
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch answer.StatusCode {
		case http.StatusNotFound:
			return errors.Wrap(err, errors.NotFound, "%s has no image %s for %s", registry, ref.Name(), platform()).WithField("source.image")
		case http.StatusUnauthorized:
			if how.Username != "" {
				return errors.Wrap(err, errors.Unauthenticated, "%s takes neither the user nor the password for %s, or there is no such image", registry, ref.Name()).
					WithField("source.image")
			}
			return errors.Wrap(err, errors.Unauthenticated, "%s wants credentials for %s, or there is no such image", registry, ref.Name()).
				WithHint("log in on the node (docker login), as the worker's user").WithField("source.image")
		case http.StatusForbidden:
			return errors.Wrap(err, errors.PermissionDenied, "%s denies access to %s", registry, ref.Name()).WithField("source.image")
		case http.StatusTooManyRequests:
			return errors.Wrap(err, errors.RateLimited, "%s limits the rate of pulls", registry).WithHint("log in on the node, or wait")
		}
		return errors.Wrap(err, errors.Unavailable, "%s answered with status %d", registry, answer.StatusCode)
	}
	var netErr net.Error
	if errors.As(err, &netErr) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.Wrap(err, errors.Unavailable, "%s cannot be reached", registry).WithHint("check the reference's registry and the network")
	}
	if strings.Contains(err.Error(), "no child with platform") {
		return errors.Wrap(err, errors.NotFound, "%s is not made for %s", ref.Name(), platform()).WithField("source.image")
	}
	var local *fs.PathError
	if errors.As(err, &local) {
		return storeError(err)
	}
	// What is left is what the library finds wrong with the registry's answers:
	// digests, lengths and documents that are not what they should be.
	return errors.Wrap(err, errors.Unavailable, "what %s sent cannot be used", registry)
}
