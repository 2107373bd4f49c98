package loki

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
)

const (
	queryPath    = "/loki/api/v1/query_range"
	queryTimeout = 30 * time.Second
	maxAnswer    = 64 << 20
)

// Query asks for lines
// (https://grafana.com/docs/loki/latest/reference/loki-http-api/#query-logs-within-a-range-of-time).
type Query struct {
	LogQL      string // with what comes from outside by Quote
	Start, End time.Time
	Limit      int
	Oldest     bool // first; otherwise the newest
}

// Found is a line with the labels of its stream.
type Found struct {
	At     time.Time
	Labels map[string]string
	Text   string
}

// Quote makes a text one of LogQL's strings, which are Go's.
func Quote(s string) string { return strconv.Quote(s) }

// Reader reads what sinks have sent.
type Reader struct {
	config Config
	from   string
}

// NewReader makes a reader of the Loki that c says. Returns InvalidArgument.
func NewReader(c Config) (*Reader, error) {
	if err := CheckURL(c.URL); err != nil {
		return nil, err
	}
	if c.Client == nil {
		c.Client = &http.Client{Timeout: queryTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Reader{c, strings.TrimRight(c.URL, "/") + queryPath}, nil
}

// answer is what a query is answered with.
type answer struct {
	Status string `json:"status"`
	Data   struct {
		ResultType string `json:"resultType"`
		Result     []struct {
			Stream map[string]string `json:"stream"`
			Values [][]any           `json:"values"` // the time, the line, and more where it was asked for
		} `json:"result"`
	} `json:"data"`
}

// Query gives lines by their time, in the order that was asked for. Returns
// Unavailable, TooLarge.
func (r *Reader) Query(ctx context.Context, q Query) ([]Found, error) {
	direction := "backward"
	if q.Oldest {
		direction = "forward"
	}
	params := url.Values{
		"query": {q.LogQL}, "start": {strconv.FormatInt(q.Start.UnixNano(), 10)}, "end": {strconv.FormatInt(q.End.UnixNano(), 10)},
		"limit": {strconv.Itoa(q.Limit)}, "direction": {direction},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.from+"?"+params.Encode(), nil)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "Loki cannot be asked")
	}
	req.Header.Set("Accept", "application/json")
	r.config.show(req)
	resp, err := r.config.Client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return nil, errors.Public(ctx.Err())
		}
		return nil, errors.Wrap(err, errors.Unavailable, "Loki does not answer").WithHint("see log.loki")
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	var a answer
	switch {
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return nil, errors.New(errors.Unavailable, "Loki answers %s", resp.Status).WithRetryAfter(time.Second)
	case resp.StatusCode != http.StatusOK:
		return nil, errors.New(errors.Unavailable, "Loki refuses the query: %s", resp.Status).
			WithHint("log.loki, log.loki_tenant and log.loki_key_file say which one is asked, and as whom")
	case err != nil:
		return nil, errors.Wrap(err, errors.Unavailable, "Loki's answer broke off")
	case len(text) > maxAnswer:
		return nil, errors.New(errors.TooLarge, "the lines are too many bytes").WithField("query.limit").WithHint("ask for fewer at a time")
	case json.Unmarshal(text, &a) != nil || a.Status != "success" || a.Data.ResultType != "streams":
		return nil, errors.New(errors.Unavailable, "what answers is no Loki").WithHint("see log.loki")
	}
	return a.found(q.Oldest)
}

func (a *answer) found(oldest bool) (all []Found, err error) {
	for _, s := range a.Data.Result {
		for _, v := range s.Values {
			if len(v) < 2 {
				return nil, errors.New(errors.Unavailable, "Loki's answer has a line without its time")
			}
			stamp, _ := v[0].(string)
			text, is := v[1].(string)
			ns, err := strconv.ParseInt(stamp, 10, 64)
			if err != nil || !is {
				return nil, errors.New(errors.Unavailable, "Loki's answer has a line without its time")
			}
			all = append(all, Found{time.Unix(0, ns).UTC(), s.Stream, text})
		}
	}
	slices.SortStableFunc(all, func(a, b Found) int {
		if !oldest {
			a, b = b, a
		}
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Labels["service"], b.Labels["service"]), cmp.Compare(a.Labels["host"], b.Labels["host"]), cmp.Compare(a.Text, b.Text))
	})
	return all, nil
}
