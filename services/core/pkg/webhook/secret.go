package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	"github.com/aetherium/aetherium/libs/common/pkg/seal"
	"github.com/aetherium/aetherium/libs/types/pkg/domain"
	"github.com/aetherium/aetherium/services/core/pkg/storage"
)

const (
	secretPrefix = "whsec_"
	secretBytes  = 32
)

// secrets is what a webhook's messages are signed with, as it is sealed.
type secrets struct {
	Current  []byte    `json:"current"`
	Previous []byte    `json:"previous,omitempty"` // signs as well, until then
	Until    time.Time `json:"until,omitzero"`
}

func newSecret() []byte {
	b := make([]byte, secretBytes)
	_, _ = rand.Read(b) // never fails
	return b
}

// secretText is a secret as its receiver is told it.
func secretText(secret []byte) string {
	return secretPrefix + base64.StdEncoding.EncodeToString(secret)
}

func (s secrets) seal(ctx context.Context, sealer seal.Sealer, project, id domain.ID) ([]byte, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, errors.Wrap(err, errors.Internal, "the webhook's secret could not be stored")
	}
	return sealer.Seal(ctx, storage.SealedWebhook(project, id), plain)
}

func openSecrets(ctx context.Context, sealer seal.Sealer, w *domain.Webhook) (secrets, error) {
	var s secrets
	plain, err := sealer.Open(ctx, storage.SealedWebhook(w.ProjectID, w.ID), w.SecretSealed)
	if err != nil {
		return s, err
	}
	if json.Unmarshal(plain, &s) != nil {
		return s, errors.New(errors.Internal, "what is stored encrypted of the webhook is damaged") // not wrapped: its text could hold a part of it
	}
	return s, nil
}

// rotated has another secret, and goes on signing with the one before for a time.
func (s secrets) rotated(secret []byte, now time.Time, overlap time.Duration) secrets {
	if overlap <= 0 {
		return secrets{Current: secret}
	}
	return secrets{Current: secret, Previous: s.Current, Until: now.Add(overlap)}
}

// sign makes the value of the header webhook-signature.
func (s secrets) sign(id string, at time.Time, body string) string {
	signed := []string{signature(s.Current, id, at, body)}
	if len(s.Previous) > 0 && at.Before(s.Until) {
		signed = append(signed, signature(s.Previous, id, at, body))
	}
	return strings.Join(signed, " ")
}

func signature(secret []byte, id string, at time.Time, body string) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "." + body))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
