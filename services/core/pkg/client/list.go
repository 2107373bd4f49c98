package client

import (
	"context"
	"iter"
	"net/http"
	"strconv"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

// Page narrows a list to a number of items and a direction.
type Page struct {
	// Limit is how many items in all; 0: every one.
	Limit int
	// OldestFirst turns the order around; lists begin with the newest.
	OldestFirst bool
}

// pageItems is how many items one request asks for.
const pageItems = 200

// all walks a list, page by page. Iteration ends after an error.
func all[T any](ctx context.Context, c *Client, cl call, p Page) iter.Seq2[T, error] {
	return pages(cl, p, func(req call) (api.List[T], error) { return fetch[api.List[T]](ctx, c, req) })
}

// pages is all for lists whose pages tell more than their items.
func pages[T any](cl call, p Page, next func(call) (api.List[T], error)) iter.Seq2[T, error] {
	if p.OldestFirst {
		cl = cl.param("order", "asc")
	}
	return func(yield func(T, error) bool) {
		left := p.Limit
		for cursor := ""; ; {
			size := pageItems
			if p.Limit > 0 {
				size = min(size, left)
			}
			req := cl.param("limit", strconv.Itoa(size))
			if cursor != "" {
				req = req.param("cursor", cursor)
			}
			page, err := next(req)
			if err != nil {
				var zero T
				yield(zero, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
				if left--; left == 0 && p.Limit > 0 {
					return
				}
			}
			if page.NextCursor == "" || page.NextCursor == cursor {
				return
			}
			cursor = page.NextCursor
		}
	}
}

// Collect gathers a list, or its first error.
func Collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	out := []T{}
	for item, err := range seq {
		if err != nil {
			return nil, err
		}
		out = append(out, item)
	}
	return out, nil
}

func remove(path ...string) call {
	return call{method: http.MethodDelete, path: path, safe: true}
}
