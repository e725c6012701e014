package idp

// ParseSession and ParseKeys are the decoders of what providers answer, for fuzzing.
var ParseSession = parseSession

// ParseKeys gives the number of usable keys.
func ParseKeys(text []byte) (int, error) {
	keys, err := parseKeys(text)
	return len(keys), err
}
