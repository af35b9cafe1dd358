"""WebDataset tar files whose images have different formats."""

from datasets.packaged_modules.webdataset.webdataset import WebDataset


class ImageTars(WebDataset):
    """
    The reader of `datasets`, but for a set in which one sample is a jpg and another a png: where a sample has a single
    image, it goes into the column of the first sample's, whatever its own ending.

    `datasets` refuses such a set if it notices at once, else it leaves out the images of the other formats.
    """

    _image_column: str | None = None  # known from the first tar on, before a stream is handed to workers

    def _get_pipeline_from_tar(self, tar_path, tar_iterator):
        for sample in super()._get_pipeline_from_tar(tar_path, tar_iterator):
            images = [field for field in sample if field.lower() in self.IMAGE_EXTENSIONS]
            if len(images) == 1:
                self._image_column = self._image_column or images[0]
                if images[0] != self._image_column:
                    sample[self._image_column] = sample.pop(images[0])
            yield sample
