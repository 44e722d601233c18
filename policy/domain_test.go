package policy_test

import (
	"testing"

	"github.com/podfence/podfence/policy"
)

func TestDomainNames(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		matches       bool
	}{
		{"api.example.com", "api.example.com", true},
		{"API.Example.com.", "api.example.com", true},
		{"api.example.com", "www.api.example.com", false},
		{"api.example.com", "example.com", false},
		{"*.example.com", "api.example.com", true},
		{"*.Example.COM.", "a.b.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", ".example.com", false},
		{"*.example.com", "badexample.com", false},
		{"*.example.com", "example.com.evil.com", false},
	} {
		if got := policy.DomainNameOf(c.pattern).Matches(c.name); got != c.matches {
			t.Errorf("%s matches %s: %t", c.pattern, c.name, got)
		}
	}
}
