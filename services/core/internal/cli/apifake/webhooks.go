package apifake

import (
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/types/pkg/api"
)

func (s *Server) webhookRoutes(handle register) {
	find := func(r *http.Request) (int, error) {
		id := r.PathValue("id")
		i := slices.IndexFunc(s.webhooks, func(w api.Webhook) bool { return w.ID == id })
		if i < 0 {
			return 0, errors.New(errors.NotFound, "webhook %s does not exist", id)
		}
		return i, nil
	}
	handle("GET /webhooks", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		return page(w, r, s.webhooks)
	})
	handle("POST /webhooks", func(w http.ResponseWriter, r *http.Request) error {
		var req api.CreateWebhook
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		hook := api.Webhook{ID: "webhookaaaaaaaaaaaaa", URL: req.URL, Types: req.Types, State: "active", CreatedAt: time.Now()}
		s.webhooks = append(s.webhooks, hook)
		writeJSON(w, http.StatusCreated, api.NewWebhook{Webhook: hook, Secret: "whsec_AAAA"})
		return nil
	})
	handle("GET /webhooks/{id}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		i, err := find(r)
		if err == nil {
			writeJSON(w, http.StatusOK, s.webhooks[i])
		}
		return err
	})
	change := func(do func(*api.Webhook)) func(http.ResponseWriter, *http.Request) error {
		return func(w http.ResponseWriter, r *http.Request) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			i, err := find(r)
			if err == nil {
				do(&s.webhooks[i])
				writeJSON(w, http.StatusOK, s.webhooks[i])
			}
			return err
		}
	}
	handle("POST /webhooks/{id}/enable", change(func(w *api.Webhook) { w.State, w.DisabledReason = "active", "" }))
	handle("POST /webhooks/{id}/disable", change(func(w *api.Webhook) { w.State, w.DisabledReason = "disabled", "asked" }))
	handle("POST /webhooks/{id}/secret", func(w http.ResponseWriter, r *http.Request) error {
		var req api.RotateWebhookSecret
		if err := readJSON(r, &req); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		i, err := find(r)
		if err == nil {
			writeJSON(w, http.StatusOK, api.NewWebhook{Webhook: s.webhooks[i], Secret: fmt.Sprintf("whsec_BBBB%d", *req.OverlapMS)})
		}
		return err
	})
	handle("DELETE /webhooks/{id}", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		i, err := find(r)
		if err == nil {
			s.webhooks = slices.Delete(s.webhooks, i, i+1)
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	})
	handle("GET /webhooks/{id}/deliveries", func(w http.ResponseWriter, r *http.Request) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, err := find(r); err != nil {
			return err
		}
		next := time.Now().Add(time.Hour)
		return page(w, r, []api.WebhookDelivery{
			{ID: "deliverybbbbbbbbbbbb", Seq: 8, Type: "task.failed", State: "pending", Attempts: 2, Status: 503, Error: "status", CreatedAt: time.Now(), NextAttemptAt: &next},
			{ID: "deliveryaaaaaaaaaaaa", Seq: 7, Type: "task.succeeded", State: "delivered", Attempts: 1, Status: 204, CreatedAt: time.Now()},
		})
	})
}
