package topic

import "strings"

// Filter is a parsed topic filter of a SUBSCRIBE.
type Filter struct {
	DeviceID string // "" when the filter spans devices ({root}/+/...)
	Kinds    []Kind // the kinds of topics it can match
	Shared   bool   // it came as $share/{group}/...
	Exact    bool   // it has no wildcard
}

// StripShare cuts the "$share/{group}/" prefix off a filter. mochi accepts the
// prefix in any letter case, so this does too.
func StripShare(filter string) (inner string, shared bool) {
	const prefix = "$share/"
	if len(filter) < len(prefix) || !strings.EqualFold(filter[:len(prefix)], prefix) {
		return filter, false
	}
	_, inner, ok := strings.Cut(filter[len(prefix):], "/")
	if !ok {
		return "", true
	}
	return inner, true
}

// ParseFilter reads a topic filter. ok is false when the filter can match
// anything outside {root}/{one level}/..., when it can match no topic of the
// table, or when it is malformed; such a filter is refused to everybody but an
// administrator.
func (r Root) ParseFilter(filter string) (f Filter, ok bool) {
	filter, f.Shared = StripShare(filter)
	id, rest, ok := r.split(filter)
	if !ok || rest == "" {
		return Filter{}, false
	}
	switch {
	case id == "+":
	case ValidDeviceID(id):
		f.DeviceID = id
	default:
		return Filter{}, false
	}
	f.Exact = f.DeviceID != "" && !strings.ContainsAny(rest, "+#")
	levels := strings.Split(rest, "/")
	for i, l := range levels {
		if l == "" || strings.Contains(l, "#") && (l != "#" || i != len(levels)-1) || strings.Contains(l, "+") && l != "+" {
			return Filter{}, false
		}
	}
	for k := Unknown + 1; k < kinds; k++ {
		if f.Exact && k == Command {
			if got, _ := parseSuffix(rest); got == Command {
				f.Kinds = append(f.Kinds, Command)
			}
			continue
		}
		if matchLevels(levels, strings.Split(k.String(), "/")) {
			f.Kinds = append(f.Kinds, k)
		}
	}
	return f, len(f.Kinds) > 0
}

// matchLevels reports whether a filter's levels can match a topic's levels; a
// "+" in the topic (the type of a command) matches any single filter level.
func matchLevels(filter, topic []string) bool {
	for i, l := range filter {
		if l == "#" {
			return true
		}
		if i >= len(topic) || l != "+" && topic[i] != "+" && l != topic[i] {
			return false
		}
	}
	return len(filter) == len(topic)
}

// Match reports whether a topic name matches a filter, by the rules of
// [MQTT-4.7]: "+" is one level, "#" is the rest and its parent, and neither
// matches a first level that begins with "$". The filter must be stripped of a
// "$share" prefix.
func Match(filter, name string) bool {
	if strings.HasPrefix(name, "$") && (strings.HasPrefix(filter, "+") || strings.HasPrefix(filter, "#")) {
		return false
	}
	for {
		f, frest, fmore := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		n, nrest, nmore := strings.Cut(name, "/")
		if f != "+" && f != n {
			return false
		}
		switch {
		case fmore && !nmore:
			return frest == "#"
		case !fmore:
			return !nmore
		}
		filter, name = frest, nrest
	}
}
