package lab

import (
	"regexp"
	"slices"
	"strings"
)

var listedElements = regexp.MustCompile(`elements = \{([^}]*)\}`)

// SortListing returns what nft lists of a table in an order that tells nothing of how it came
// to be: without the table's name, with its objects and their elements in order. Two tables
// that hold the same are equal then.
func SortListing(listing string) string {
	text := listedElements.ReplaceAllStringFunc(listing, func(list string) string {
		all := strings.Split(listedElements.FindStringSubmatch(list)[1], ",")
		for i := range all {
			all[i] = strings.TrimSpace(all[i])
		}
		slices.Sort(all)
		return strings.Join(all, ", ")
	})
	_, text, _ = strings.Cut(text, "\n") // table inet NAME {
	objects := strings.SplitAfter(strings.TrimSuffix(text, "}\n"), "\n\t}\n")
	for i := range objects {
		objects[i] = strings.Trim(objects[i], "\n")
	}
	slices.Sort(objects)
	return strings.Join(objects, "\n")
}
