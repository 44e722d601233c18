package demo

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// printer writes tables: in colour on a terminal, plain elsewhere.
type printer struct {
	out    io.Writer
	colour bool
}

func newPrinter(out io.Writer) *printer {
	p := &printer{out: out}
	if file, is := out.(*os.File); is {
		info, err := file.Stat()
		p.colour = err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	return p
}

const (
	green  = "32"
	dim    = "2"
	bold   = "1"
	alarm  = "41;97"
	column = 14
)

// paint pads a text and colours it.
func (p *printer) paint(code, text string, width int) string {
	padded := fmt.Sprintf("%-*s", width, text)
	if !p.colour {
		return padded
	}
	return "\x1b[" + code + "m" + padded + "\x1b[0m"
}

func (p *printer) intro() {
	fmt.Fprint(p.out, `podfence demo: a shop in network namespaces. Pods: shop/frontend, shop/backend,
data/db. Outside: a customer, a partner, and a host that an ipBlock's except
leaves out. Every cell is real traffic, TCP or UDP, over IPv4 and IPv6.
`)
}

// stage writes what became of the conversations, and counts those that went
// wrong.
func (p *printer) stage(title string, all []conversation) (wrong int) {
	fmt.Fprintf(p.out, "\n%s\n\n", p.paint(bold, title, 0))
	var columns []string
	cells := map[string]map[string]conversation{}
	var rows []string
	for _, c := range all {
		if cells[c.from.Name] == nil {
			cells[c.from.Name] = map[string]conversation{}
			rows = append(rows, c.from.Name)
		}
		cells[c.from.Name][c.to.title] = c
	}
	seen := map[string]bool{}
	for _, row := range append([]string{rows[len(rows)-1]}, rows...) {
		for _, c := range all {
			if c.from.Name == row && !seen[c.to.title] {
				seen[c.to.title] = true
				columns = append(columns, c.to.title)
			}
		}
	}
	p.header(columns)
	for _, row := range rows {
		line := fmt.Sprintf("  %-10s", row)
		for _, title := range columns {
			c, there := cells[row][title]
			switch {
			case !there:
				line += strings.Repeat(" ", column)
			case c.wrong:
				wrong++
				line += p.paint(alarm, "WRONG", column)
			case c.want:
				line += p.paint(green, "yes", column)
			default:
				line += p.paint(dim, "-", column)
			}
		}
		fmt.Fprintln(p.out, strings.TrimRight(line, " "))
	}
	for _, c := range all {
		if c.wrong {
			fmt.Fprintf(p.out, "  WRONG: %s to %s (%s port %d) must be %s\n", c.from, c.to.title, c.to.protocol, c.to.port, c.verdict)
		}
	}
	return wrong
}

// header writes the services' titles in two lines: whose, and what.
func (p *printer) header(columns []string) {
	for line := range 2 {
		text := "  from \\ to "
		if line == 1 {
			text = strings.Repeat(" ", 12)
		}
		for _, title := range columns {
			words := append(strings.Fields(title), "")
			text += fmt.Sprintf("%-*s", column, words[line])
		}
		fmt.Fprintln(p.out, strings.TrimRight(text, " "))
	}
}

func (p *printer) outro(keep bool, folder string) {
	fmt.Fprint(p.out, "\nEvery packet got the verdict that the policies give.\n")
	if !keep {
		return
	}
	fmt.Fprintf(p.out, `
Kept. Look around:
  ip netns exec %[1]snode nft list table inet podfence
  ip netns exec %[1]snode nft list chain inet podfence egress-forward
  ip netns exec %[1]sbackend ip address
  ip netns exec %[1]sbackend ping -c 1 198.51.100.20   # denied: the rule has ports
  ls %[2]s
The same agent on the same node, following changes in that folder:
  ip netns exec %[1]snode %[3]s agent --node-name node --manifests %[2]s
Remove it with:
  for ns in $(ip netns list | grep -o '%[1]s[a-z]*'); do ip netns delete $ns; done; rm -r %[2]s
`, prefix, folder, executable())
}

func executable() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "podfence"
}
