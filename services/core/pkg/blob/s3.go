package blob

import (
	"context"
	"crypto/x509"
	"io"
	"net/url"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/logging"
)

// S3Config says where objects are, and by which key.
type S3Config struct {
	// Endpoint is http:// or https:// with a host and nothing more.
	Endpoint string
	Region   string // empty: us-east-1
	Bucket   string // must exist
	Prefix   string // of the objects' names; may be empty
	// AccessKey and SecretKey, both or neither.
	AccessKey string
	SecretKey logging.Secret
	Roots     []byte // PEM; nil: the host's
}

// S3 keeps blobs as objects: <prefix>/sha256/<the digits>.
type S3 struct {
	config S3Config
	name   string
	client minio.Core
}

var _ Store = (*S3)(nil)

// partBytes is sent at once of large objects, and held in memory meanwhile; with
// the 10,000 parts that S3 allows, objects of 156 GiB are possible.
const partBytes = 16 << 20

// attempts at a request that fails for a reason that may pass.
const attempts = 5

// OpenS3 makes a client. Nothing is asked yet. Returns InvalidArgument.
func OpenS3(c S3Config) (*S3, error) {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, errors.New(errors.InvalidArgument, "the object storage's address is none").WithField("storage.endpoint").WithHint("such as https://s3.eu-central-1.amazonaws.com")
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		return nil, errors.New(errors.InvalidArgument, "object storage needs both keys, or neither").WithField("storage.secret_key").
			WithHint("set storage.access_key and storage.secret_key")
	}
	if err := s3utils.CheckValidBucketNameStrict(c.Bucket); err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "no bucket can be named %.80q", c.Bucket).WithField("storage.url").
			WithHint("s3://bucket/prefix")
	}
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	c.Prefix = strings.Trim(c.Prefix, "/")
	transport, err := minio.DefaultTransport(u.Scheme == "https")
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "object storage cannot be asked")
	}
	if c.Roots != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.Roots) {
			return nil, errors.New(errors.InvalidArgument, "there is no certificate for the object storage in what was given").WithField("storage.ca_file").
				WithHint("a file of PEM")
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds:  credentials.NewStaticV4(c.AccessKey, c.SecretKey.Reveal(), ""),
		Secure: u.Scheme == "https", Region: c.Region, Transport: transport, MaxRetries: attempts,
	})
	if err != nil {
		return nil, errors.Wrap(err, errors.InvalidArgument, "object storage cannot be asked like this")
	}
	return &S3{config: c, name: "s3://" + path.Join(u.Host, c.Bucket, c.Prefix), client: minio.Core{Client: client}}, nil
}

// Name implements Store.
func (s *S3) Name() string { return s.name }

func (s *S3) object(d Digest) (string, error) {
	digits, err := d.hex()
	return path.Join(s.config.Prefix, "sha256", digits), err
}

// Put implements Store. An upload that fails is taken back; one whose process
// died is left to the bucket's own rule for incomplete uploads.
func (s *S3) Put(ctx context.Context, d Digest, bytes int64, r io.Reader) error {
	name, err := s.object(d)
	if err != nil {
		return err
	}
	if bytes <= 0 {
		return noBytes(bytes)
	}
	_, err = s.client.Client.PutObject(ctx, s.config.Bucket, name, check(r, d, bytes, errors.InvalidArgument), bytes, minio.PutObjectOptions{
		PartSize: partBytes, NumThreads: 1, ContentType: "application/octet-stream",
	})
	return s3Error(err, d)
}

// Get implements Store.
func (s *S3) Get(ctx context.Context, d Digest) (io.ReadCloser, error) {
	name, err := s.object(d)
	if err != nil {
		return nil, err
	}
	o, _, _, err := s.client.GetObject(ctx, s.config.Bucket, name, minio.GetObjectOptions{})
	if err != nil {
		return nil, s3Error(err, d)
	}
	return reader{&s3Reader{check(o, d, -1, errors.PreconditionFailed), d}, o}, nil
}

// s3Reader gives the client's errors their codes.
type s3Reader struct {
	r io.Reader
	d Digest
}

func (r *s3Reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err == io.EOF {
		return n, err
	}
	return n, s3Error(err, r.d)
}

// Delete implements Store.
func (s *S3) Delete(ctx context.Context, d Digest) error {
	name, err := s.object(d)
	if err != nil {
		return err
	}
	err = s3Error(s.client.RemoveObject(ctx, s.config.Bucket, name, minio.RemoveObjectOptions{}), d)
	if errors.HasCode(err, errors.NotFound) {
		return nil
	}
	return err
}

// List implements Store.
func (s *S3) List(ctx context.Context, f func(Info) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing
	under := path.Join(s.config.Prefix, "sha256") + "/"
	for o := range s.client.Client.ListObjects(ctx, s.config.Bucket, minio.ListObjectsOptions{Prefix: under, Recursive: true}) {
		if o.Err != nil {
			return s3Error(o.Err, "")
		}
		d := Digest(algorithm + strings.TrimPrefix(o.Key, under))
		if _, err := d.hex(); err != nil {
			continue // it is no blob
		}
		if err := f(Info{Digest: d, Bytes: o.Size, Written: o.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func s3Error(err error, d Digest) error {
	var coded *errors.Error
	if err == nil || errors.As(err, &coded) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	switch minio.ToErrorResponse(err).Code {
	case minio.NoSuchKey:
		return absent(d)
	case minio.NoSuchBucket:
		return errors.Wrap(err, errors.Unavailable, "the object storage's bucket does not exist").WithHint("make it, or correct storage.url")
	case minio.AccessDenied, minio.InvalidAccessKeyID, minio.SignatureDoesNotMatch:
		return errors.Wrap(err, errors.Unavailable, "object storage refuses the keys that it is shown")
	}
	return errors.Wrap(err, errors.Unavailable, "object storage cannot be used")
}
