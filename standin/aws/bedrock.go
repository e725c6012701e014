package aws

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

const serviceBedrock = "bedrock"

// Sight is what the model of Bedrock answers.
type Sight struct {
	Input json.RawMessage // that it calls the tool with; nil: a person
	Words bool            // it says it in words, and calls no tool
	Cut   bool            // it has run out of tokens
	Raw   string          // the whole answer, in place of one as the API has it
	Delay time.Duration   // until it answers
}

// Sees makes every model answer so from now on.
func (s *Server) Sees(sight Sight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sight = sight
}

// Shown is the last picture that a model was shown.
func (s *Server) Shown() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.shown)
}

// converseInput is what Converse is asked with, as far as it matters here.
// [AWS, bedrock API reference, Converse]
type converseInput struct {
	System []struct {
		Text string `json:"text"`
	} `json:"system"`
	Messages []struct {
		Role    string `json:"role"`
		Content []struct {
			Text  string `json:"text"`
			Image *struct {
				Format string `json:"format"`
				Source struct {
					Bytes []byte `json:"bytes"` // base64
				} `json:"source"`
			} `json:"image"`
		} `json:"content"`
	} `json:"messages"`
	InferenceConfig struct {
		Temperature *float64 `json:"temperature"`
		MaxTokens   int      `json:"maxTokens"`
	} `json:"inferenceConfig"`
	ToolConfig struct {
		Tools []struct {
			ToolSpec struct {
				Name        string `json:"name"`
				InputSchema struct {
					JSON map[string]any `json:"json"`
				} `json:"inputSchema"`
			} `json:"toolSpec"`
		} `json:"tools"`
		ToolChoice struct {
			Tool struct {
				Name string `json:"name"`
			} `json:"tool"`
		} `json:"toolChoice"`
	} `json:"toolConfig"`
}

// bedrock mounts what Bedrock serves of its runtime.
func (s *Server) bedrock() {
	s.handle("POST /model/{id}/converse", operation{name: "Converse", service: serviceBedrock, action: "bedrock:InvokeModel", serve: converse, resource: func(c *call) (string, error) {
		id := c.r.PathValue("id")
		if strings.HasPrefix(id, "arn:") {
			return id, nil
		}
		return "arn:aws:bedrock:" + s.opts.Region + ":" + s.opts.Account + ":inference-profile/" + id, nil
	}})
}

// invalidInput is a request that Bedrock does not take.
func invalidInput(why string) *problem {
	return &problem{http.StatusBadRequest, "ValidationException", why}
}

// converse checks the request as Bedrock does, and answers with the sight.
func converse(c *call) error {
	var in converseInput
	if err := c.decode(&in); err != nil {
		return err
	}
	if len(in.Messages) == 0 || in.Messages[0].Role != "user" {
		return invalidInput("A conversation must start with a user message.")
	}
	var image []byte
	for _, block := range in.Messages[0].Content {
		if block.Image != nil {
			image = block.Image.Source.Bytes
			if !begins(image, block.Image.Format) {
				return invalidInput("The provided image does not match the specified image format.")
			}
		}
	}
	if image == nil {
		return invalidInput("There is no image.")
	}
	tools := in.ToolConfig.Tools
	if len(tools) != 1 || tools[0].ToolSpec.Name != in.ToolConfig.ToolChoice.Tool.Name || tools[0].ToolSpec.InputSchema.JSON["type"] != "object" {
		return invalidInput("The tool configuration is not valid.")
	}
	if in.InferenceConfig.Temperature == nil || *in.InferenceConfig.Temperature != 0 || in.InferenceConfig.MaxTokens != 200 || len(in.System) != 1 {
		return invalidInput("This stand-in wants temperature 0, 200 tokens and a system prompt.")
	}
	c.s.mu.Lock()
	sight := c.s.sight
	c.s.shown = image
	c.s.mu.Unlock()
	select {
	case <-time.After(sight.Delay):
	case <-c.r.Context().Done():
		return nil
	}
	if sight.Raw != "" {
		c.w.Header().Set("Content-Type", "application/json")
		_, _ = c.w.Write([]byte(sight.Raw)) // the client has gone
		return nil
	}
	if sight.Input == nil {
		sight.Input = json.RawMessage(`{"label":"person","confidence":0.93,"summary":"A person walks towards the door."}`)
	}
	content := []any{map[string]any{"toolUse": map[string]any{"toolUseId": "tooluse_" + randomText(22), "name": tools[0].ToolSpec.Name, "input": sight.Input}}}
	stop := "tool_use"
	if sight.Words {
		content, stop = []any{map[string]any{"text": string(sight.Input)}}, "end_turn"
	}
	if sight.Cut {
		stop = "max_tokens"
	}
	return c.reply(map[string]any{
		"output": map[string]any{"message": map[string]any{"role": "assistant", "content": content}}, "stopReason": stop,
		"usage": map[string]any{"inputTokens": 600, "outputTokens": 60, "totalTokens": 660}, "metrics": map[string]any{"latencyMs": 900},
	})
}

// begins reports whether bytes begin as an image of a format does.
func begins(b []byte, format string) bool {
	switch format {
	case "jpeg":
		return bytes.HasPrefix(b, []byte{0xff, 0xd8, 0xff})
	case "png":
		return bytes.HasPrefix(b, []byte("\x89PNG"))
	case "gif":
		return bytes.HasPrefix(b, []byte("GIF8"))
	case "webp":
		return bytes.HasPrefix(b, []byte("RIFF"))
	}
	return false
}
