package ui

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/podfence/podfence/explain"
	"github.com/podfence/podfence/test/page"
)

// TestDrop: a policy that is dropped opens what diff says, in the list, on the map and in the matrix; and nothing once
// it is cleared.
func TestDrop(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#whatif?policy=NetworkPolicy/shop/db")
	b.Click("#drop")
	b.Waits(`document.querySelector("#result") !== null`)
	d := ask[explain.Diff](t, "diff", "-f", shop+"cluster.yaml", "-f", without(t, "db"), "--against", shop+"cluster.yaml", "--against", shop+"policies.yaml")
	var want [][3]string
	for _, list := range []struct {
		how     string
		changes []explain.Change
	}{{"opened", d.Opened}, {"closed", d.Closed}} {
		for _, c := range list.changes {
			want = append(want, [3]string{list.how, c.From.String(), c.To.String()})
		}
	}
	got := page.Eval[[][3]string](b, `[...document.querySelectorAll("#result tr[data-how]")].map(r => [r.dataset.how, r.cells[1].textContent, r.cells[2].textContent])`)
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("the page:\n%v\ndiff:\n%v", got, want)
	}
	b.Picture("whatif")
	if banner := page.Eval[string](b, `document.querySelector("#banner").textContent`); !strings.Contains(banner, "Nothing is written") {
		t.Errorf("the banner says %q", banner)
	}
	b.Visit("#map?open=shop")
	for _, c := range want {
		if n := page.Eval[int](b, `document.querySelectorAll('.edge[data-how=`+c[0]+`][data-from="`+c[1]+`"][data-to="`+c[2]+`"]').length`); n != 1 {
			t.Errorf("the map has %d lines for %v", n, c)
		}
	}
	b.Visit("#matrix")
	if n := page.Eval[int](b, `document.querySelectorAll(".grid button.opened b, .grid button.closed b").length`); n != len(want) {
		t.Errorf("%d cells are marked, and %d pairs change", n, len(want))
	}
	b.Click("#banner button")
	b.Ready()
	b.Waits(`document.querySelector("#banner").hidden && document.querySelectorAll(".grid button b").length === 0`)
}

// without are the shop's policies but for one.
func without(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(shop + "policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	documents := slices.DeleteFunc(strings.Split(string(data), "\n---\n"), func(text string) bool {
		return strings.Contains(text, "name: "+name+"\n") || strings.Contains(text, "name: "+name+",") || strings.Contains(text, "name: "+name+"}")
	})
	path := filepath.Join(t.TempDir(), "policies.yaml")
	if err := os.WriteFile(path, []byte(strings.Join(documents, "\n---\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEdit: YAML that cannot be read is said, and loses nothing; what is edited counts.
func TestEdit(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "light")
	b.Visit("#whatif?policy=NetworkPolicy/shop/web")
	set := func(js string) {
		page.Eval[bool](b, `(() => { const a = document.querySelector("#yaml"); a.value = `+js+`; a.dispatchEvent(new Event("input")); return true })()`)
	}
	set(`a.value.replace("podSelector", "podSelektor")`)
	b.Click("#what-changes")
	b.Waits(`!document.querySelector("#failure").hidden`)
	if text := page.Eval[string](b, `document.querySelector("#failure").textContent`); !strings.Contains(text, "podSelektor") {
		t.Errorf("it says: %s", text)
	}
	set(`a.value.replace("podSelektor", "podSelector").replace("port: 8080", "port: 8081")`)
	b.Click("#what-changes")
	b.Waits(`document.querySelectorAll("#result tr[data-how]").length > 0`)
	text := page.Eval[string](b, `document.querySelector("#result table").textContent`)
	if !strings.Contains(text, "TCP 8080") || !strings.Contains(text, "closed") {
		t.Errorf("it says: %s", text)
	}
	if !page.Eval[bool](b, `document.querySelector("#failure").hidden`) {
		t.Error("the error is still there")
	}
}

// TestSeveral: changes add up, with a policy that is new, and are what diff says of all of them together; reading the
// objects again keeps them, and what is taken back does not count.
func TestSeveral(t *testing.T) {
	b := page.Open(t, pictures, serve(t, shopFiles...), "dark")
	set := func(js string) {
		t.Helper()
		page.Eval[bool](b, `(() => { const a = document.querySelector("#yaml"); a.value = `+js+`; a.dispatchEvent(new Event("input")); return true })()`)
	}
	rows := func() [][4]string {
		t.Helper()
		return page.Eval[[][4]string](b, `[...document.querySelectorAll("#result tr[data-how]")].map(r => [r.dataset.how, r.cells[1].textContent, r.cells[2].textContent, r.cells[3].textContent])`)
	}
	banner := func(n string) {
		t.Helper()
		b.Waits(fmt.Sprintf(`!document.querySelector("#banner").hidden && document.querySelector("#banner").textContent.startsWith("What if: %s changed")`, n))
	}
	const added = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: fence, namespace: batch}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress]}\n"
	b.Visit("#whatif?policy=NetworkPolicy/shop/db")
	b.Click("#drop")
	banner("1 policy")
	b.Visit("#whatif?policy=new")
	set(fmt.Sprintf("%q", added))
	b.Click("#what-changes")
	banner("2 policies")

	data, err := os.ReadFile(without(t, "db"))
	if err != nil {
		t.Fatal(err)
	}
	against := []string{"--against", shop + "cluster.yaml", "--against", shop + "policies.yaml"}
	args := append([]string{"diff", "-f", shop + "cluster.yaml", "-f", written(t, string(data)+"\n---\n"+added)}, against...)
	d := ask[explain.Diff](t, args...)
	var want [][2]string
	for _, c := range slices.Concat(d.Opened, d.Closed) {
		want = append(want, [2]string{c.From.String(), c.To.String()})
	}
	b.Waits(fmt.Sprintf(`document.querySelectorAll("#result tr[data-how]").length === %d`, len(want)))
	for i, row := range rows() {
		if how := []string{"opened", "closed"}[min(1, i/max(1, len(d.Opened)))]; len(d.Opened) > 0 && row[0] != how || row[1] != want[i][0] || row[2] != want[i][1] || row[3] == "" {
			t.Errorf("row %d is %q, want %v, %s", i, row, want[i], how)
		}
	}
	text, _ := exec.Command(plugin, args...).Output() // 1 is an answer
	if got := page.Eval[string](b, `document.querySelector("#result pre").textContent`); got != strings.TrimRight(withoutPlaces(string(text)), "\n") {
		t.Errorf("the page:\n%s\ndiff:\n%s", got, withoutPlaces(string(text)))
	}
	b.Picture("whatif-several-dark")

	b.Keys("r")
	b.Visit("#matrix")
	banner("2 policies")
	b.Visit("#whatif?policy=NetworkPolicy/shop/db")
	page.Eval[bool](b, `([...document.querySelectorAll(".buttons button")].find(e => e.textContent === "As it is").click(), true)`)
	banner("1 policy")
	b.Visit("#map")
	if n := page.Eval[int](b, `document.querySelectorAll(".edge[data-how=opened]").length`); n != 0 {
		t.Errorf("%d lines are opened by what was taken back", n)
	}
	b.Waits(`document.querySelector(".edge[data-how=closed]")`)
	b.Click("#banner button")
	b.Waits(`document.querySelector("#banner").hidden && !document.querySelector(".edge[data-how=closed]")`)
}

// withoutPlaces is a text of diff without where in files rules are written, which the page does not say.
func withoutPlaces(text string) string {
	return regexp.MustCompile(`(?m)^ +\S+\.yaml:\d+: .*\n`).ReplaceAllString(text, "")
}
