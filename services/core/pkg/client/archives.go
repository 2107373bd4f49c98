package client

import (
	"context"
	"io"
	"iter"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Archives lists what is kept of what ended long ago, newest first.
func (c *Client) Archives(ctx context.Context, p Page) iter.Seq2[api.Archive, error] {
	return all[api.Archive](ctx, c, get("archives"), p)
}

// ReadArchive opens an archive's records: [api.ArchivedRecord] in JSON, one in each line.
// The caller closes it. Returns NotFound.
func (c *Client) ReadArchive(ctx context.Context, id string) (io.ReadCloser, error) {
	resp, err := c.open(ctx, get("archives", id))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}
