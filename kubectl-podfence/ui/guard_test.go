package ui

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
)

// request asks the handler of a server.
func request(t *testing.T, s *Server, method, path string, change func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "http://127.0.0.1:4567"+path, strings.NewReader("{}"))
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

// TestToken: without the token, nothing is answered: neither data nor the page itself.
func TestToken(t *testing.T) {
	s := server(t)
	for _, path := range []string{"", "api/state", "api/map", "api/policies", "app.js", "style.css"} {
		if w := request(t, s, "GET", "/"+s.token+"/"+path, nil); w.Code != http.StatusOK {
			t.Errorf("%s with the token: %d %s", path, w.Code, w.Body)
		}
		for _, token := range []string{"", "wrong", s.token[1:], s.token + "x", strings.ToLower(s.token), ".."} {
			w := request(t, s, "GET", "/"+token+"/"+path, nil)
			if w.Code != http.StatusForbidden || strings.Contains(w.Body.String(), "shop") || strings.Contains(w.Body.String(), s.token) {
				t.Errorf("%s with the token %q: %d %s", path, token, w.Code, w.Body)
			}
		}
		if w := request(t, s, "GET", "/"+path+"?token="+s.token, nil); w.Code != http.StatusForbidden {
			t.Errorf("%s with the token elsewhere: %d", path, w.Code)
		}
	}
	if len(s.token) < 26 || newToken() == s.token {
		t.Errorf("token %s can be guessed", s.token)
	}
}

// TestHost: who asks by a name that is not this machine's own has been led here.
func TestHost(t *testing.T) {
	s := server(t)
	for host, want := range map[string]int{
		"127.0.0.1:4567": 200, "localhost:8080": 200, "LOCALHOST": 200, "[::1]:4567": 200, "127.0.0.2": 200,
		"evil.example": 403, "evil.example:4567": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403, "10.0.0.1:4567": 403, "[2001:db8::1]": 403, "": 403, "localhost.": 403,
	} {
		for _, path := range []string{"/api/state", "/"} {
			if w := request(t, s, "GET", "/"+s.token+path, func(r *http.Request) { r.Host = host }); w.Code != want {
				t.Errorf("host %q, %s: %d, want %d", host, path, w.Code, want)
			}
		}
	}
}

// TestHeaders: what the page may do is said with every answer, also with those that are refused; and no page of another
// server may read any.
func TestHeaders(t *testing.T) {
	s := server(t)
	for _, path := range []string{"/" + s.token + "/", "/" + s.token + "/api/state", "/" + s.token + "/api/none", "/wrong/", "/" + s.token} {
		h := request(t, s, "GET", path, nil).Header()
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
			"Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store", "Access-Control-Allow-Origin": "",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		csp := h.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: the policy has no %s: %s", path, want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || strings.Contains(csp, "http") {
			t.Errorf("%s: the policy is %s", path, csp)
		}
	}
}

// TestOtherPages: a page of another site that knows the token gets no data, and changes nothing.
func TestOtherPages(t *testing.T) {
	s := server(t)
	for site, want := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200} {
		for _, method := range []string{"GET /api/state", "POST /api/read"} {
			method, path, _ := strings.Cut(method, " ")
			if w := request(t, s, method, "/"+s.token+path, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", site) }); w.Code != want {
				t.Errorf("%s %s from %s: %d, want %d", method, path, site, w.Code, want)
			}
		}
	}
	if w := request(t, s, "GET", "/"+s.token+"/api/read", nil); w.Code == http.StatusOK {
		t.Error("GET has the objects read again")
	}
}

// TestLoopback: nobody but this machine reaches it.
func TestLoopback(t *testing.T) {
	s, err := Listen(t.Context(), backend(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.listen.Close()
	addr := netip.MustParseAddrPort(s.listen.Addr().String())
	if !addr.Addr().IsLoopback() || !strings.HasPrefix(s.URL(), "http://"+addr.String()+"/") {
		t.Errorf("it listens at %s, and says %s", addr, s.URL())
	}
	if _, err := Listen(t.Context(), backend(t), Options{Port: int(addr.Port())}); err == nil || !strings.Contains(err.Error(), "--port") {
		t.Errorf("listening at a port that is taken: %v", err)
	}
}
