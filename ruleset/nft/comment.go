package nft

import "strings"

// MaxComment is what nft shows of a comment: NFTNL_UDATA_COMMENT_MAXLEN with
// its final NUL.
const MaxComment = 127

// Comment makes a text fit, and safe between double quotes: nft knows no way to
// write a quote inside, and takes a backslash for one.
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
