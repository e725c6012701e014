package registry

import (
	"bytes"
	"encoding/json"
	"math"
	"unicode/utf8"
)

// Zone is an area of the room that a device watches, or leaves out.
type Zone struct {
	ID          string     `json:"id"`       // 1 to 16 letters and digits
	Name        string     `json:"name"`     // up to 32 printable characters
	Type        string     `json:"type"`     // include, exclude
	Vertices    [][2]int32 `json:"vertices"` // 3 to 16 points, mm
	Sensitivity int        `json:"sensitivity"`
}

const (
	maxZones    = 16
	leastPoints = 3
	mostPoints  = 16
	// maxMillimetres is how far a point may lie from the device: no radar sees further.
	maxMillimetres = 100_000
)

// ParseZones reads a JSON list of zones strictly; nil is no zones. Errors: Invalid,
// with a sentence that names what is wrong.
func ParseZones(raw []byte) ([]Zone, error) {
	if t := bytes.TrimSpace(raw); len(t) == 0 || t[0] != '[' {
		return nil, badPayload("zones must be a list.")
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, errNotJSON()
	}
	if len(items) > maxZones {
		return nil, badPayload("There are more than %d zones.", maxZones)
	}
	zones := make([]Zone, 0, len(items))
	seen := map[string]bool{}
	for _, item := range items {
		z, err := parseZone(item)
		if err != nil {
			return nil, err
		}
		if seen[z.ID] {
			return nil, badPayload("Two zones have the id %q.", z.ID)
		}
		seen[z.ID] = true
		zones = append(zones, z)
	}
	return zones, nil
}

func parseZone(raw []byte) (z Zone, err error) {
	need := map[string]bool{"id": true, "name": true, "type": true, "vertices": true, "sensitivity": true}
	err = eachMember(raw, func(name, v []byte) (err error) {
		key := string(name)
		delete(need, key)
		switch key {
		case "id":
			if z.ID, err = stringValue(key, v, 1, 16); err == nil && !alphanumeric(z.ID) {
				return badPayload("The id of a zone must be 1 to 16 letters and digits.")
			}
		case "name":
			z.Name, err = stringValue(key, v, 0, 32)
		case "type":
			if err = oneOf(key, v, "include", "exclude"); err == nil {
				z.Type = string(v[1 : len(v)-1])
			}
		case "vertices":
			z.Vertices, err = parseVertices(v)
		case "sensitivity":
			var n int64
			n, err = intValue(key, v, 0, 100)
			z.Sensitivity = int(n)
		}
		return err
	})
	if err != nil {
		return Zone{}, err
	}
	for _, key := range []string{"id", "name", "type", "vertices", "sensitivity"} {
		if need[key] {
			return Zone{}, badPayload("%s of a zone is missing.", key)
		}
	}
	return z, nil
}

func parseVertices(v []byte) ([][2]int32, error) {
	var points [][]float64
	if err := json.Unmarshal(v, &points); err != nil || len(points) < leastPoints || len(points) > mostPoints {
		return nil, badPayload("vertices must be %d to %d points.", leastPoints, mostPoints)
	}
	list := make([][2]int32, len(points))
	for i, p := range points {
		if len(p) != 2 || p[0] != math.Trunc(p[0]) || p[1] != math.Trunc(p[1]) || math.Abs(p[0]) > maxMillimetres || math.Abs(p[1]) > maxMillimetres {
			return nil, badPayload("A point must be two whole numbers of millimetres, at most %d.", maxMillimetres)
		}
		list[i] = [2]int32{int32(p[0]), int32(p[1])}
	}
	return list, nil
}

func alphanumeric(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return utf8.ValidString(s)
}
