package dns_test

import (
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/podfence/podfence/names/dns"
	"github.com/podfence/podfence/test/check"
)

func TestQuery(t *testing.T) {
	q := check.Value(dns.NewQuery("api.example.com", aaaa))(t)
	var m message
	check.NoError(t, m.Unpack(q.Message()))
	if !m.RecursionDesired || m.Response || len(m.Questions) != 1 || m.Questions[0].Name.String() != api || m.Questions[0].Type != aaaa || m.Questions[0].Class != dnsmessage.ClassINET {
		t.Errorf("it asks %v", m.GoString())
	}
	if len(m.Additionals) != 1 || m.Additionals[0].Header.Type != dnsmessage.TypeOPT || m.Additionals[0].Header.Class != 1232 || m.Additionals[0].Header.TTL != 0 {
		t.Errorf("of EDNS it says %v", m.Additionals)
	}
	for _, c := range []struct {
		what    string
		reply   *message
		want    []dns.Answer
		ignored []dns.Reason
	}{
		{"an answer", reply(m.ID, api, aaaa, cname(api, 60, "e7.cdn.net."), at("e7.cdn.net.", 600, "2001:db8::1")), []dns.Answer{answer6}, nil},
		{"another ID", reply(m.ID+1, api, aaaa, at(api, 60, "2001:db8::1")), nil, []dns.Reason{dns.WrongID}},
		{"another type", reply(m.ID, api, a, at(api, 60, "192.0.2.1")), nil, []dns.Reason{dns.WrongQuestion}},
		{"another name", reply(m.ID, "www.example.com.", aaaa, at(api, 60, "2001:db8::1")), nil, []dns.Reason{dns.WrongQuestion}},
		{"truncated", reply(m.ID, api, aaaa, at(api, 60, "2001:db8::1")).with(func(m *message) { m.Truncated = true }), nil, []dns.Reason{dns.Truncated}},
		{"no such name", reply(m.ID, api, aaaa).with(func(m *message) { m.RCode = dnsmessage.RCodeNameError }), nil, []dns.Reason{dns.ErrorCode}},
		{"its echo", &m, nil, []dns.Reason{dns.WrongDirection}},
	} {
		t.Run(c.what, func(t *testing.T) {
			got, ok, ignored := q.Reply(c.reply.pack(t))
			var answers []dns.Answer
			if ok {
				answers = append(answers, got)
			}
			expect(t, answers, ignored, c.want, c.ignored...)
		})
	}
}

// TestQueryIDs: they are not the same, and not in order.
func TestQueryIDs(t *testing.T) {
	ids := map[string]bool{}
	for range 100 {
		ids[string(check.Value(dns.NewQuery("api.example.com", a))(t).Message()[:2])] = true
	}
	if len(ids) < 90 {
		t.Errorf("%d IDs of 100 queries", len(ids))
	}
}

func TestNoSuchQuery(t *testing.T) {
	for _, name := range []string{"", ".", "api..example.com", "*.example.com", "api example.com", strings.Repeat("a", 64) + ".com", strings.Repeat("abcdefg.", 32) + "com"} {
		if _, err := dns.NewQuery(name, a); err == nil {
			t.Errorf("it asks for %q", name)
		}
	}
	if _, err := dns.NewQuery("api.example.com", dnsmessage.TypeTXT); err == nil {
		t.Error("it asks for texts")
	}
	longest := strings.Repeat("abcdefg.", 31) + "abcde"
	if _, err := dns.NewQuery(longest, a); err != nil {
		t.Errorf("it does not ask for a name of %d octets: %v", len(longest), err)
	}
}
