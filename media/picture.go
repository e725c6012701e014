package media

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"unicode"
)

// MaxPicture is the largest picture that a model is shown, in bytes. [contracts B]
const MaxPicture = 1 << 20

// maxSummary is how many characters a summary has.
const maxSummary = 200

// Picture is an image of a format that models take.
type Picture struct {
	Format string // jpeg, png, gif or webp: what its first bytes say, whatever its sender says
	Bytes  []byte
	Source string // where it is from: upload or stream
}

// NewPicture recognises an image by its first bytes. [ErrImageTooLarge],
// [ErrUnsupportedImage].
func NewPicture(b []byte) (Picture, error) {
	if len(b) > MaxPicture {
		return Picture{}, ErrImageTooLarge
	}
	p := Picture{Bytes: b, Source: "upload"}
	switch {
	case bytes.HasPrefix(b, []byte("\xff\xd8\xff")):
		p.Format = "jpeg"
	case bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		p.Format = "png"
	case bytes.HasPrefix(b, []byte("GIF87a")), bytes.HasPrefix(b, []byte("GIF89a")):
		p.Format = "gif"
	case len(b) >= 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP":
		p.Format = "webp"
	default:
		return Picture{}, ErrUnsupportedImage
	}
	return p, nil
}

// verdict is what a model has said, judged.
type verdict struct {
	label       Label
	thousandths int64
	summary     string
}

// judge reads the answer of a model, of which nothing is trusted: whoever is in the
// picture may hold up a sheet of instructions. A label that is none of ours is
// LabelUnknown, a confidence is a number from 0 to 1, and all other words can only be
// the summary. [ErrModelBadOutput].
func judge(answer []byte) (verdict, error) {
	var said struct {
		Label      *string  `json:"label"`
		Confidence *float64 `json:"confidence"`
		Summary    *string  `json:"summary"`
	}
	if err := json.Unmarshal(answer, &said); err != nil {
		return verdict{}, ErrModelBadOutput.With(err)
	}
	if said.Label == nil || said.Confidence == nil || said.Summary == nil || *said.Confidence < 0 || *said.Confidence > 1 {
		return verdict{}, ErrModelBadOutput
	}
	v := verdict{label: Label(*said.Label), thousandths: int64(math.Round(*said.Confidence * 1000)), summary: plainSummary(*said.Summary)}
	if !slices.Contains(Labels(), v.label) {
		v.label = LabelUnknown
	}
	return v, nil
}

// plainSummary makes a sentence of what a model wrote: one line without characters
// that nobody sees, at most maxSummary long, in which nothing is markup for whoever
// puts it into a page.
func plainSummary(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r): // control characters, and those that turn the direction of writing
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))), " ")
	var out strings.Builder
	n := 0
	for _, r := range s {
		text := string(r)
		switch r {
		case '<':
			text = "&lt;"
		case '>':
			text = "&gt;"
		case '&':
			text = "&amp;"
		case '"':
			text = "”"
		case '\'', '`':
			text = "’"
		}
		if n += len([]rune(text)); n > maxSummary {
			break
		}
		out.WriteString(text)
	}
	return out.String()
}
