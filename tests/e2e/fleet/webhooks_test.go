package fleet

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/client"
	"github.com/aetherium/aetherium/services/core/pkg/storage/postgres"
	"github.com/aetherium/aetherium/tests/internal/server"
)

// Two gateways tell a webhook each event, by one ID, and when one is killed in
// the middle of an attempt the other tells what it was telling.
func TestGatewaysShareWebhooks(t *testing.T) {
	f := newField(t)
	ctx := f.ctx
	telling := []string{"AETHERIUM_WEBHOOKS_ALLOW=127.0.0.0/8"}
	one := f.gateway("gateway-1", telling...)
	c := f.client(one)

	type message struct {
		id  string
		seq int64
	}
	var silent atomic.Bool // no answer is given
	silent.Store(true)
	received := make(chan message, 1000)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var told api.WebhookMessage
		if err != nil || json.Unmarshal(body, &told) != nil {
			t.Errorf("told %q, %v", body, err)
		}
		received <- message{r.Header.Get(api.HeaderWebhookID), told.Seq}
		if silent.Load() {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(receiver.Close)
	next := func() message {
		t.Helper()
		select {
		case m := <-received:
			return m
		case <-ctx.Done():
			t.Fatal("nothing was received")
			return message{}
		}
	}
	hook, err := c.CreateWebhook(ctx, api.CreateWebhook{URL: receiver.URL, Types: []string{"task.created"}})
	must(t, err)
	happens := func(by *client.Client) {
		t.Helper()
		_, err := by.CreateTask(ctx, api.CreateTask{VM: &api.CreateVM{Template: "none", Network: "none"}, Command: start("true").Command})
		must(t, err)
	}

	// One has begun to tell of it.
	happens(c)
	held := next()
	other := f.gateway("gateway-2", telling...)
	must(t, one.Kill())
	silent.Store(false)
	f.endClaims(hook.ID)
	if again := next(); again != held {
		t.Errorf("told %+v, then %+v", held, again)
	}

	// Both tell, and each event has one ID.
	must(t, one.Run(ctx))
	ids, by := map[int64]string{}, []*client.Client{f.client(one), f.client(other)}
	for i := range 20 {
		happens(by[i%2])
	}
	for len(ids) < 20 {
		m := next()
		if was, told := ids[m.seq]; told && was != m.id {
			t.Errorf("event %d is told by %s and %s", m.seq, was, m.id)
		}
		ids[m.seq] = m.id
	}
	for {
		ds, err := client.Collect(by[1].WebhookDeliveries(ctx, hook.ID, client.Page{}))
		must(t, err)
		if pending := count(ds, "pending"); pending == 0 {
			if n := count(ds, "delivered"); n != 21 {
				t.Errorf("%d of 21 are delivered: %+v", n, ds)
			}
			return
		}
		time.Sleep(10 * time.Millisecond) // the end of a delivery is no event
	}
}

func count(ds []api.WebhookDelivery, state string) (n int) {
	for _, d := range ds {
		if d.State == state {
			n++
		}
	}
	return n
}

// endClaims ends the claims of a webhook's deliveries, as a minute does that
// nothing is heard of who has them.
func (f *field) endClaims(hook string) {
	f.t.Helper()
	store, err := postgres.Open(f.ctx, f.database, postgres.Options{Logger: slog.New(slog.DiscardHandler), Among: true})
	must(f.t, err)
	defer func() { must(f.t, store.Close()) }()
	ended, err := server.EndClaims(f.ctx, store, hook)
	must(f.t, err)
	if ended != 1 {
		f.t.Errorf("%d claims of 1 were ended", ended)
	}
}
