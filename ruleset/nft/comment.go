package nft

import "strings"

// MaxComment is how many bytes of a comment nft shows: NFTNL_UDATA_COMMENT_MAXLEN counts a final
// NUL as well.
const MaxComment = 127

// Comment makes a text short enough, and safe between double quotes: nft has no way to write a
// double quote in a comment, and takes a backslash for an attempt at that.
func Comment(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '"':
			return '\''
		case r == '\\' || r < ' ' || r > '~':
			return '?'
		}
		return r
	}, text)
	if len(text) <= MaxComment {
		return text
	}
	return text[:MaxComment-3] + "..."
}
