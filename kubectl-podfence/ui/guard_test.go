package ui

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
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
		"127.0.0.1:4567": 200, "localhost:8080": 200, "LOCALHOST": 200, "[::1]:4567": 200, "[::1]": 200, "127.0.0.2": 200,
		"evil.example": 403, "evil.example:4567": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403, "10.0.0.1:4567": 403, "[2001:db8::1]": 403, "[2001:db8::1]:4567": 403, "": 403, ":4567": 403,
		"localhost.": 403, "localhost.:4567": 403, "127.0.0.1.": 403, "0.0.0.0": 403, "[::]:4567": 403, "2130706433": 403, "user@localhost": 403,
	} {
		for _, path := range []string{"/api/state", "/"} {
			if w := request(t, s, "GET", "/"+s.token+path, func(r *http.Request) { r.Host = host }); w.Code != want {
				t.Errorf("host %q, %s: %d, want %d", host, path, w.Code, want)
			}
		}
	}
}

// TestHeaders: what the page may do is said with every answer, also with those that are refused or are errors, whatever
// the method; and no page of another server may read any.
func TestHeaders(t *testing.T) {
	s := server(t)
	of := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	own := "/" + s.token
	for _, c := range []struct {
		path   string
		change func(*http.Request)
	}{
		{own + "/", nil},
		{own + "/app.js", nil},
		{own + "/none.js", nil},
		{own, nil},
		{own + "/api/state", nil},
		{own + "/api/none", nil},
		{own + "/api/map?open=none", nil},
		{own + "/api/flows", nil},
		{own + "/api/state", of("Origin", "https://evil.example")},
		{own + "/api/state", of("Sec-Fetch-Site", "cross-site")},
		{own + "/api/state", func(r *http.Request) { r.Host = "evil.example" }},
		{"/wrong/", nil},
		{"/", nil},
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "OPTIONS"} {
			r := method + " " + strings.TrimPrefix(c.path, own)
			h := request(t, s, method, c.path, c.change).Header()
			for name, want := range map[string]string{
				"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer",
				"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin", "Cache-Control": "no-store",
			} {
				if name == "Cache-Control" && strings.HasSuffix(c.path, "/none.js") {
					continue // net/http takes it from a file's errors, which have no data
				}
				if got := h.Get(name); got != want {
					t.Errorf("%s: %s is %q, want %q", r, name, got, want)
				}
			}
			for name := range h {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: others may read it, by %s", r, name)
				}
			}
			directives := strings.Split(h.Get("Content-Security-Policy"), "; ")
			slices.Sort(directives)
			if want := []string{
				"base-uri 'none'", "connect-src 'self'", "default-src 'none'", "form-action 'none'", "frame-ancestors 'none'", "img-src 'self'",
				"require-trusted-types-for 'script'", "script-src 'self'", "style-src 'self'", "trusted-types 'none'",
			}; !slices.Equal(directives, want) {
				t.Errorf("%s: the policy is\n%q, want\n%q", r, directives, want)
			}
		}
	}
}

// TestRedirect: the address without its last slash leads to the page, as the page's own addresses are relative.
func TestRedirect(t *testing.T) {
	s := server(t)
	w := request(t, s, "GET", "/"+s.token, nil)
	if got := w.Header().Get("Location"); w.Code != http.StatusTemporaryRedirect || got != "/"+s.token+"/" {
		t.Errorf("%d, to %q", w.Code, got)
	}
	// Nobody is led to another server.
	for _, path := range []string{"//evil.example/x", "//evil.example/..", "/\\evil.example", "/%2f%2fevil.example", "/vendor"} {
		to := request(t, s, "GET", "/"+s.token+path, nil).Header().Get("Location")
		if u, err := url.Parse(to); err != nil || u.Host != "" || strings.HasPrefix(to, "//") || strings.HasPrefix(to, "/\\") {
			t.Errorf("%s leads to %q", path, to)
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
	// However the path is written.
	for _, path := range []string{"//api/state", "/./api/state", "/x/../api/state", "/api//state", "/api/./state", "/%61pi/state", "/api%2Fstate", "/API/state", "/api/state/"} {
		w := request(t, s, "GET", "/"+s.token+path, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
		if w.Code == http.StatusOK || strings.Contains(w.Body.String(), "shop") {
			t.Errorf("%s from another site: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestMethods: what has work done is asked for by POST only, so that no address that is merely visited does it; and
// what is only read is not asked for by methods that write.
func TestMethods(t *testing.T) {
	s := server(t)
	for path, own := range map[string]string{"state": "GET", "map": "GET", "matrix": "GET", "reach": "GET", "explain": "GET", "policies": "GET", "policy": "GET", "flows": "GET", "read": "POST", "whatif": "POST"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			if method == own || own == "GET" && method == "HEAD" {
				continue
			}
			if w := request(t, s, method, "/"+s.token+"/api/"+path, nil); w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "shop") {
				t.Errorf("%s api/%s: %d %s", method, path, w.Code, w.Body)
			}
		}
	}
	if s.world.now != nil {
		t.Error("the objects were read for it")
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
