package registry

// The scanner of payloads: one pass that finds the ends of values and is as strict
// as encoding/json [RFC 8259], which needs a second pass to find them. It neither
// recurses nor allocates, whatever a device sends. That the text is valid UTF-8 is
// checked before.

// maxDepth is how deep arrays and objects may be nested in a member's value: a bit
// of scanValue's stack for each.
const maxDepth = 64

// What a scan returns in place of an end.
const (
	malformed = -1
	tooDeep   = -2
)

// skipSpace is the index behind the white space at b[i].
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// next is the byte at b[i], and 0, which stands nowhere in JSON, at the end.
func next(b []byte, i int) byte {
	if i < len(b) {
		return b[i]
	}
	return 0
}

// scanValue is the end of the value that begins at b[i].
func scanValue(b []byte, i int) int {
	var objects uint64 // a bit for each open container, 1 for an object; the innermost is the lowest
	for depth := 0; ; {
		if objects&1 == 1 {
			if _, i = scanKey(b, i); i < 0 {
				return malformed
			}
		}
		switch c := next(b, i); c {
		case '"':
			i = scanString(b, i)
		case 't':
			i = scanWord(b, i, "true")
		case 'f':
			i = scanWord(b, i, "false")
		case 'n':
			i = scanWord(b, i, "null")
		case '{', '[':
			if depth == maxDepth {
				return tooDeep
			}
			depth++
			objects <<= 1
			if c == '{' {
				objects |= 1
			}
			if i = skipSpace(b, i+1); next(b, i) != closing(objects) {
				continue
			}
		default:
			i = scanNumber(b, i)
		}
		// Behind a value come the ends of the containers that it was the last of, and
		// a comma if one is left open.
		for {
			if i < 0 || depth == 0 {
				return i
			}
			i = skipSpace(b, i)
			if next(b, i) != closing(objects) {
				break
			}
			i++
			depth--
			objects >>= 1
		}
		if next(b, i) != ',' {
			return malformed
		}
		i = skipSpace(b, i+1)
	}
}

// closing is the bracket that ends the innermost of scanValue's containers.
func closing(objects uint64) byte {
	if objects&1 == 1 {
		return '}'
	}
	return ']'
}

// scanKey is the end of the key that begins at b[i], and the index of its value.
func scanKey(b []byte, i int) (end, value int) {
	if next(b, i) != '"' {
		return malformed, malformed
	}
	if end = scanString(b, i); end < 0 {
		return malformed, malformed
	}
	if i = skipSpace(b, end); next(b, i) != ':' {
		return malformed, malformed
	}
	return end, skipSpace(b, i+1)
}

// scanString is the end of the string that begins with the quote at b[i].
func scanString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < ' ':
			return malformed
		case c == '\\':
			i++
			switch next(b, i) {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			case 'u':
				for range 4 {
					if i++; !isHex(next(b, i)) {
						return malformed
					}
				}
			default:
				return malformed
			}
		}
	}
	return malformed
}

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func isDigit(c byte) bool { return c-'0' <= 9 }

// scanWord is the end of the word that is to stand at b[i].
func scanWord(b []byte, i int, word string) int {
	end := i + len(word)
	if end > len(b) || string(b[i:end]) != word {
		return malformed
	}
	return end
}

// scanNumber is the end of the number that begins at b[i].
func scanNumber(b []byte, i int) int {
	if next(b, i) == '-' {
		i++
	}
	if next(b, i) == '0' {
		i++
	} else if i = scanDigits(b, i); i < 0 {
		return malformed
	}
	if next(b, i) == '.' {
		if i = scanDigits(b, i+1); i < 0 {
			return malformed
		}
	}
	if next(b, i)|0x20 == 'e' {
		i++
		if c := next(b, i); c == '+' || c == '-' {
			i++
		}
		return scanDigits(b, i)
	}
	return i
}

// scanDigits is the end of the digits at b[i], of which there must be one.
func scanDigits(b []byte, i int) int {
	start := i
	for i < len(b) && isDigit(b[i]) {
		i++
	}
	if i == start {
		return malformed
	}
	return i
}
