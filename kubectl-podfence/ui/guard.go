package ui

import (
	"crypto/rand"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// policyOfPage is what a browser lets the page do: run its own modules, and talk to this server. No text becomes a
// script or markup by mistake.
const policyOfPage = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// newToken is a secret that nobody guesses, of letters that a URL may have.
func newToken() string { return rand.Text() }

// guard answers those only who know the token, which is the first part of the path, and who ask for this machine by
// its own names. A page of another site that has led a browser here by a name of its own (DNS rebinding), and other
// users of the machine, get nothing.
func guard(token string, to http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policyOfPage)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer") // the path has the token
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !ownName(r.Host) {
			http.Error(w, "This server is asked for by the names of this machine only: localhost, 127.0.0.1 or [::1].", http.StatusForbidden)
			return
		}
		given, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
			http.Error(w, "The address lacks the token: take the one that kubectl podfence ui has printed.", http.StatusForbidden)
			return
		}
		if rest == "" && !strings.HasSuffix(r.URL.Path, "/") {
			http.Redirect(w, r, "/"+token+"/", http.StatusTemporaryRedirect)
			return
		}
		// No other page may ask, even one that knows the token.
		if site := r.Header.Get("Sec-Fetch-Site"); strings.HasPrefix(rest, "api/") && site != "" && site != "same-origin" && site != "none" {
			http.Error(w, "Only the page itself may ask.", http.StatusForbidden)
			return
		}
		inner := r.Clone(r.Context())
		inner.URL.Path, inner.URL.RawPath = "/"+rest, ""
		to.ServeHTTP(w, inner)
	})
}

// ownName reports whether a Host names the loopback interface. Which port it has does not matter: whoever forwards it
// from elsewhere may have chosen another.
func ownName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() || strings.EqualFold(host, "localhost")
}
