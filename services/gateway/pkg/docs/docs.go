// Package docs serves the page on which the API can be read and tried. It is
// self-contained: nothing is fetched from elsewhere, and its content security
// policy forbids it. The page needs no key; what it shows does: it asks for one.
package docs

import (
	_ "embed"
	"net/http"
)

//go:embed page.html
var page []byte

//go:embed page.js
var script []byte

//go:embed page.css
var style []byte

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Files gives the page's parts by their paths.
func Files() map[string]http.Handler {
	return map[string]http.Handler{
		"/docs":          file("text/html; charset=utf-8", page),
		"/docs/page.js":  file("text/javascript; charset=utf-8", script),
		"/docs/page.css": file("text/css; charset=utf-8", style),
	}
}

func file(media string, content []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", media)
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		_, _ = w.Write(content)
	})
}
