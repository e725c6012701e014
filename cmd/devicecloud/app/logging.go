package app

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger makes the program's logger. With format "auto" it writes text to a
// terminal and JSON to anything else.
func NewLogger(w io.Writer, terminal bool, format, level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("LOG_LEVEL: %w", err)
	}
	options := &slog.HandlerOptions{Level: least}
	switch {
	case format == "text", format == "auto" && terminal:
		return slog.New(slog.NewTextHandler(w, options)), nil
	case format == "json", format == "auto":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("LOG_FORMAT %q must be auto, text or json", format)
}
