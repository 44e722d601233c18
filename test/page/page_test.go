package page

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// listens is a test that keeps its errors for another.
type listens struct {
	testing.TB
	ends   []func()
	errors []string
}

func (l *listens) Cleanup(f func()) { l.ends = append(l.ends, f) }
func (l *listens) Errorf(format string, all ...any) {
	l.errors = append(l.errors, fmt.Sprintf(format, all...))
}

// end ends it, and returns its errors.
func (l *listens) end() string {
	for i := len(l.ends) - 1; i >= 0; i-- {
		l.ends[i]()
	}
	return strings.Join(l.errors, "\n")
}

// TestComplaints: whatever a page does that it should not is an error of the test that has opened it.
func TestComplaints(t *testing.T) {
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	defer elsewhere.Close()
	for name, c := range map[string]struct {
		policy, body, script string
		want                 string
	}{
		"nothing":        {"default-src 'self'; connect-src *", "<p>fine", "", ""},
		"an exception":   {"default-src 'self'", "", "throw new Error('oh')", "exception"},
		"a rejection":    {"default-src 'self'", "", "Promise.reject(new Error('oh'))", "exception"},
		"an error":       {"default-src 'self'", "", "console.error('oh')", "console"},
		"a warning":      {"default-src 'self'", "", "console.warn('oh')", "console"},
		"another server": {"default-src 'self'; connect-src *", "", "fetch('" + elsewhere.URL + "/x', {mode: 'no-cors'})", "asks " + elsewhere.URL},
		"an image":       {"default-src 'self'", "<img src='" + elsewhere.URL + "/x.png'>", "", "security"},
		"inline style":   {"default-src 'self'", "<p style='color: red'>red", "", "security"},
		"inline script":  {"default-src 'self'", "<script>1</script>", "", "security"},
		"markup of text": {"default-src 'self'; require-trusted-types-for 'script'", "", "document.body.innerHTML = '<p>'", "exception"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/own.js":
					w.Header().Set("Content-Type", "text/javascript")
					fmt.Fprintln(w, c.script)
				case "/":
					w.Header().Set("Content-Security-Policy", c.policy)
					w.Header().Set("Content-Type", "text/html")
					fmt.Fprintf(w, `<!doctype html><body data-ready="true">%s<script src="own.js"></script>`, c.body)
				default:
					http.NotFound(w, r)
				}
			}))
			defer server.Close()
			l := &listens{TB: t}
			b := Open(l, t.TempDir(), server.URL+"/", "light")
			b.Visit("#x")
			b.Waits(`document.readyState === "complete"`)
			Eval[bool](b, `new Promise(done => setTimeout(() => done(true), 100))`) // what it has begun goes on
			got := l.end()
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("the test hears %q, want %q", got, c.want)
			}
		})
	}
}
