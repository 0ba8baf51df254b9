module panoptes.dev/engine/model/re2

go 1.24
