package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aetherium/aetherium/libs/common/pkg/errors"
	wire "github.com/aetherium/aetherium/libs/types/pkg/api"
	"github.com/aetherium/aetherium/services/core/pkg/vmm"
	"github.com/aetherium/aetherium/services/gateway/pkg/middleware"
)

const (
	// cookieName is ours on every preview origin; guests neither see nor set it.
	cookieName = "aeth_preview"
	cookieLife = 24 * time.Hour
)

// admit decides whether a request to a preview may pass. It has answered
// itself when it returns false: with a redirect after a one-time link, else
// with an error.
func (p *Proxy) admit(w http.ResponseWriter, r *http.Request, t Target) (shown vmm.Preview, ok bool) {
	shown, err := p.vms.Preview(r.Context(), t.VM)
	token := shown.Token
	if errors.HasCode(err, errors.NotFound) {
		// Nobody has this token: whoever holds nothing of a VM's learns nothing of
		// whether there is one.
		token, err = rand.Text(), nil
	}
	if err == nil && token == "" {
		err = errors.New(errors.Internal, "the VM has no preview token")
	}
	if err != nil {
		fail(w, err)
		return shown, false
	}
	if secret, rest, has := takeParam(r.URL.RawQuery); has {
		p.redeem(w, r, t, token, secret, rest)
		return shown, false
	}
	given := r.Header.Get(wire.HeaderPreviewToken)
	if given == "" {
		given = r.Header.Get(wire.HeaderE2BToken)
	}
	if given != "" {
		if subtle.ConstantTimeCompare([]byte(given), []byte(token)) == 1 {
			return shown, true
		}
		refuse(w, errors.New(errors.PermissionDenied, "the preview token is not this VM's"))
		return shown, false
	}
	if shown.Public {
		if err := p.mayExecute(r, t); err != nil {
			refuse(w, err)
			return shown, false
		}
		return shown, true
	}
	if !p.hasCookie(r, t, token) {
		refuse(w, errors.New(errors.Unauthenticated, "this preview is private").
			WithHint("open a one-time link made by POST /api/v1/vms/%s/ports/%d/links, or send %s; `aetherium port %s %d` prints such a link, and with --token what to send",
				t.VM, t.Port, wire.HeaderPreviewToken, t.VM, t.Port))
		return shown, false
	}
	if !fromHere(r) {
		refuse(w, errors.New(errors.PermissionDenied, "another site's page made this request").
			WithHint("pages of other origins may link to a preview, no more"))
		return shown, false
	}
	return shown, true
}

// codePort is where a code interpreter is found, and pathExecute where it runs code.
const (
	codePort    = 49999
	pathExecute = "/execute"
)

// mayExecute refuses code of strangers in a VM whose ports are public: clients
// of code interpreters show what they show its agent.
func (p *Proxy) mayExecute(r *http.Request, t Target) error {
	if t.Port != codePort || r.URL.Path != pathExecute || r.Method == http.MethodOptions {
		return nil
	}
	_, _, err := p.admitClient(r, t.VM)
	return err
}

// redeem uses a one-time link up: the visitor gets a cookie and is sent to the
// same address without the secret, which would else stay in the history.
func (p *Proxy) redeem(w http.ResponseWriter, r *http.Request, t Target, token, secret, rest string) {
	if r.Method != http.MethodGet {
		refuse(w, errors.New(errors.MethodNotAllowed, "a one-time link is opened with GET"))
		return
	}
	err := p.links.Take(r.Context(), t, token, secret)
	if errors.HasCode(err, errors.NotFound) {
		refuse(w, errors.New(errors.Unauthenticated, "the link is not valid").WithHint("it works once and for a few minutes; ask for a new one"))
		return
	}
	if err != nil {
		refuse(w, err)
		return
	}
	expires := p.now().Add(cookieLife)
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: cookieValue(token, t, expires), Path: "/", Expires: expires,
		HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: middleware.SchemeOf(r) == "https", // no Domain: this origin only
	})
	to := url.URL{Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: rest}
	location := to.EscapedPath()
	// Two slashes or a backslash in front would name another host.
	location = "/" + strings.TrimLeft(location, `/\`)
	if rest != "" {
		location += "?" + rest
	}
	h := w.Header()
	h.Set("Location", location)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	w.WriteHeader(http.StatusSeeOther)
}

// takeParam finds the link's parameter in a raw query and what remains without
// it, byte for byte: the guest's own parameters are not ours to rewrite.
func takeParam(raw string) (secret, rest string, has bool) {
	if !strings.Contains(raw, wire.PreviewLinkParam) {
		return "", raw, false
	}
	var kept []string
	for part := range strings.SplitSeq(raw, "&") {
		name, value, _ := strings.Cut(part, "=")
		if name == wire.PreviewLinkParam {
			secret, has = value, true
			continue
		}
		kept = append(kept, part)
	}
	return secret, strings.Join(kept, "&"), has
}

// cookieValue binds a visitor to one preview for a time. It is made from the
// VM's token, so that it needs no store, survives a restart and dies with the
// token, but does not give the token away.
func cookieValue(token string, t Target, expires time.Time) string {
	at := strconv.FormatInt(expires.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("preview cookie\n" + t.VM.String() + "\n" + strconv.Itoa(int(t.Port)) + "\n" + at))
	return at + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// hasCookie looks at every cookie of our name: a page on a sibling origin can
// plant one for the whole domain, which must not lock the visitor out.
func (p *Proxy) hasCookie(r *http.Request, t Target, token string) bool {
	for _, c := range r.CookiesNamed(cookieName) {
		at, _, _ := strings.Cut(c.Value, ".")
		unix, err := strconv.ParseInt(at, 10, 64)
		if err != nil || len(at) > 12 {
			continue
		}
		expires := time.Unix(unix, 0)
		want := cookieValue(token, t, expires)
		if subtle.ConstantTimeCompare([]byte(c.Value), []byte(want)) == 1 && p.now().Before(expires) {
			return true
		}
	}
	return false
}

// fromHere tells a visitor's own request from one that another page made in
// the visitor's name. Previews are siblings below one domain, which browsers
// count as the same site, so SameSite alone does not keep a guest's page from
// using its visitor's cookies for another VM.
func fromHere(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" && origin != "null" {
		u, err := url.Parse(origin)
		return err == nil && strings.EqualFold(u.Host, r.Host)
	} else if origin == "null" && r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	switch r.Header.Get("Sec-Fetch-Site") { // W3C Fetch Metadata
	case "", "none", "same-origin":
		return true
	}
	// A link or an address typed elsewhere may lead here.
	return r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
}
