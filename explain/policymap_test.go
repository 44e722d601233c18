package explain_test

import (
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/policy"
)

// link is an edge without what is said of it.
type link struct{ from, to string }

func linksOf(m *explain.Map) map[link]explain.MapEdge {
	all := map[link]explain.MapEdge{}
	for _, e := range m.Edges {
		all[link{e.From, e.To}] = e
	}
	return all
}

// TestMapIsTheMatrix: with all namespaces open, a map has an edge where the matrix has ports; with none open, where any
// of their workloads have one; of a port, where it is open.
func TestMapIsTheMatrix(t *testing.T) {
	for seed := range int64(60) {
		r := rand.New(rand.NewSource(seed))
		x := explain.New(randomCluster(r), policy.JudgeOptions{AllowToNode: r.Intn(3) == 0})
		matrix, err := x.Matrix("")
		if err != nil {
			t.Fatal(err)
		}
		var q explain.MapQuery
		q.Unfenced = true
		place := map[string]string{} // of each party while no namespace is open
		for _, p := range matrix.Parties {
			place[p.String()] = p.String()
			if p.Namespace != "" {
				place[p.String()] = "ns/" + p.Namespace
				if !slices.Contains(q.Open, p.Namespace) {
					q.Open = append(q.Open, p.Namespace)
				}
			}
		}
		atlas := x.Atlas()
		want, wantClosed := map[link]string{}, map[link]bool{}
		for _, c := range matrix.Cells {
			if strings.Contains(c.From+c.To, "/") && len(c.Open)+len(c.Unknown) > 0 {
				want[link{c.From, c.To}] = "open"
				wantClosed[link{place[c.From], place[c.To]}] = true
			}
		}
		opened, err := atlas.Map(q)
		if err != nil {
			t.Fatal(err)
		}
		got := linksOf(opened)
		for l := range want {
			if _, is := got[l]; !is {
				t.Errorf("seed %d: the matrix has ports from %s to %s, and the map no edge", seed, l.from, l.to)
			}
		}
		for l, e := range got {
			if place[l.from] == "" || place[l.to] == "" {
				continue // nodes are not in a matrix
			}
			outside := !strings.HasPrefix(place[l.from], "ns/") || !strings.HasPrefix(place[l.to], "ns/")
			if want[l] == "" && !outside { // where a network is as the one around it, the matrix says nothing
				t.Errorf("seed %d: the map has an edge from %s to %s (%+v), and the matrix no ports", seed, l.from, l.to, e)
			}
		}
		q.Open = nil
		closed, err := atlas.Map(q)
		if err != nil {
			t.Fatal(err)
		}
		got = linksOf(closed)
		for l := range wantClosed {
			if _, is := got[l]; !is {
				t.Errorf("seed %d: workloads have ports from %s to %s, and the map no edge", seed, l.from, l.to)
			}
		}
		for l := range got {
			if strings.HasPrefix(l.from, "ns/") && strings.HasPrefix(l.to, "ns/") && !wantClosed[l] {
				t.Errorf("seed %d: the map has an edge from %s to %s, and no workloads have ports", seed, l.from, l.to)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
}

// TestMapOfAPort: an edge is there if the port is open, by Judge.
func TestMapOfAPort(t *testing.T) {
	for seed := range int64(25) {
		r := rand.New(rand.NewSource(seed))
		x := explain.New(randomCluster(r), policy.JudgeOptions{})
		matrix, err := x.Matrix("")
		if err != nil {
			t.Fatal(err)
		}
		q := explain.MapQuery{Unfenced: true, Port: explain.Port{Protocol: policy.TCP, Number: 80}}
		for _, p := range matrix.Parties {
			if p.Namespace != "" && !slices.Contains(q.Open, p.Namespace) {
				q.Open = append(q.Open, p.Namespace)
			}
		}
		m, err := x.Atlas().Map(q)
		if err != nil {
			t.Fatal(err)
		}
		want := map[link]bool{}
		for _, c := range matrix.Cells {
			for _, open := range slices.Concat(c.Open, c.Unknown) {
				if open.Protocol == "TCP" && holds(open.Ports, 80) {
					want[link{c.From, c.To}] = true
				}
			}
		}
		got := linksOf(m)
		for l := range want {
			if _, is := got[l]; !is {
				t.Errorf("seed %d: port 80 is open from %s to %s, and the map has no edge", seed, l.from, l.to)
			}
		}
		for l := range got {
			if strings.Count(l.from, "/") == 2 && strings.Count(l.to, "/") == 2 && !want[l] {
				t.Errorf("seed %d: port 80 is not open from %s to %s, and the map has an edge", seed, l.from, l.to)
			}
		}
	}
}

// holds reports whether ranges of ports have one in them.
func holds(ranges []string, port int) bool {
	for _, text := range ranges {
		first, last, is := strings.Cut(text, "-")
		if text == "all" || !is && number(first) == port || is && number(first) <= port && port <= number(last) {
			return true
		}
	}
	return false
}

func number(text string) (n int) {
	for _, digit := range text {
		n = n*10 + int(digit-'0')
	}
	return n
}

// TestMap: what nodes and edges say of a small shop.
func TestMap(t *testing.T) {
	x := explain.New(theShop(t), policy.JudgeOptions{})
	atlas := x.Atlas()
	m, err := atlas.Map(explain.MapQuery{Open: []string{"shop"}})
	if err != nil {
		t.Fatal(err)
	}
	edges := linksOf(m)
	if e := edges[link{"deploy/shop/web", "deploy/shop/api"}]; e.Ports != "TCP 8080" || e.Partly || e.Unfenced {
		t.Errorf("web to api: %+v", e)
	}
	if e := edges[link{"ns/batch", "deploy/shop/web"}]; e.From == "" || e.Ports != "" {
		t.Errorf("batch to web: %+v", e)
	}
	if _, is := edges[link{"ns/batch", "ns/batch"}]; is {
		t.Error("what no policy is about was not asked for, and is an edge")
	}
	at := slices.IndexFunc(m.Nodes, func(n explain.MapNode) bool { return n.ID == "ns/shop" })
	if n := m.Nodes[at]; n.Workloads != 3 || n.IngressIsolated != n.Pods || n.Pods == 0 || n.Policies == 0 {
		t.Errorf("namespace shop: %+v", n)
	}
	for _, q := range []explain.MapQuery{{Open: []string{"none"}}, {Focus: "ns/none"}, {Port: explain.Port{Name: "http"}}} {
		if m, err := atlas.Map(q); err == nil {
			t.Errorf("%+v: %+v, and no error", q, m)
		}
	}
	focused, err := atlas.Map(explain.MapQuery{Open: []string{"shop"}, Focus: "deploy/shop/api"})
	if err != nil || len(focused.Edges) == 0 || len(focused.Edges) >= len(m.Edges) {
		t.Errorf("%d edges of one node, of %d: %v", len(focused.Edges), len(m.Edges), err)
	}
	for _, e := range focused.Edges {
		if e.From != "deploy/shop/api" && e.To != "deploy/shop/api" {
			t.Errorf("%+v is none of the node that was asked for", e)
		}
	}
}
